"""Seed-OSS: each call has a tagged value for each parameter.

<seed:tool_call>
<function=get_weather>
<parameter=city>Oslo</parameter>
</function>
</seed:tool_call>
"""

from dragoman.output.markup import ParameterMarkup, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<seed:tool_call>",
    call_open="<seed:tool_call>\n",
    head_before_name="<function=",
    head_after_name=">\n",
    parameters=ParameterMarkup(before_name="<parameter=", after_name=">", close="</parameter>"),
    tail="</function>",
    call_close="\n</seed:tool_call>",
    separator="\n",
    special_tokens=("<seed:tool_call>", "</seed:tool_call>"),
)

FORMAT = ToolFormat(markup=MARKUP)
