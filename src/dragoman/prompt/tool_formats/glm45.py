"""GLM 4.5 and 4.6, Laguna XS: each call has pairs of tagged names and values.

<tool_call>get_weather
<arg_key>city</arg_key>
<arg_value>Oslo</arg_value>
</tool_call>
"""

from dragoman.output.markup import ParameterMarkup, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

SPECIAL_TOKENS = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")

MARKUP = ToolCallMarkup(
    trigger="<tool_call>",
    call_open="<tool_call>",
    head_before_name="",
    head_after_name="\n",
    parameters=ParameterMarkup(before_name="<arg_key>", after_name="</arg_key>\n<arg_value>", close="</arg_value>"),
    tail="</tool_call>",
    separator="\n",
    special_tokens=SPECIAL_TOKENS,
)

FORMAT = ToolFormat(markup=MARKUP)
