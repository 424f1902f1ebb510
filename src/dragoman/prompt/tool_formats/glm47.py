"""GLM 4.7, Laguna S, Spark: as GLM 4.5, but without line ends.

<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo</arg_value></tool_call>
"""

from dragoman.output.markup import ParameterMarkup, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat
from dragoman.prompt.tool_formats.glm45 import SPECIAL_TOKENS

MARKUP = ToolCallMarkup(
    trigger="<tool_call>",
    call_open="<tool_call>",
    head_before_name="",
    head_after_name="",
    parameters=ParameterMarkup(
        before_name="<arg_key>", after_name="</arg_key><arg_value>", close="</arg_value>", after_close=""
    ),
    tail="</tool_call>",
    special_tokens=SPECIAL_TOKENS,
)

FORMAT = ToolFormat(markup=MARKUP)
