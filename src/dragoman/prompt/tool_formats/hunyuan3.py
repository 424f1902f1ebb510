"""Hunyuan 3: a section of calls, each with pairs of tagged names and values.

<tool_calls:opensource>
<tool_call:opensource>get_weather<tool_sep:opensource>
<arg_key:opensource>city</arg_key:opensource>
<arg_value:opensource>Oslo</arg_value:opensource>
</tool_call:opensource>
</tool_calls:opensource>
"""

from dragoman.output.markup import ParameterMarkup, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

_NAMES = ("tool_calls", "tool_call", "arg_key", "arg_value")

MARKUP = ToolCallMarkup(
    trigger="<tool_calls:opensource>",
    section_open="<tool_calls:opensource>\n",
    call_open="<tool_call:opensource>",
    head_before_name="",
    head_after_name="<tool_sep:opensource>\n",
    parameters=ParameterMarkup(
        before_name="<arg_key:opensource>",
        after_name="</arg_key:opensource>\n<arg_value:opensource>",
        close="</arg_value:opensource>",
    ),
    tail="</tool_call:opensource>",
    separator="\n",
    section_close="\n</tool_calls:opensource>",
    special_tokens=(
        "<tool_sep:opensource>",
        *(f"<{name}:opensource>" for name in _NAMES),
        *(f"</{name}:opensource>" for name in _NAMES),
    ),
)

FORMAT = ToolFormat(markup=MARKUP)
