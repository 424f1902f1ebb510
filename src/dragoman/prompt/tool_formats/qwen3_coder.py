"""Qwen3-Coder, Qwen 3.5, Nemotron 3 Nano, Step 3.5: each call has a tagged value for each parameter.

<tool_call>
<function=get_weather>
<parameter=city>
Oslo
</parameter>
</function>
</tool_call>
"""

from dragoman.output.markup import ParameterMarkup, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<tool_call>",
    call_open="<tool_call>\n",
    head_before_name="<function=",
    head_after_name=">\n",
    parameters=ParameterMarkup(before_name="<parameter=", after_name=">", padding="\n", close="</parameter>"),
    tail="</function>",
    call_close="\n</tool_call>",
    separator="\n",
    special_tokens=("<tool_call>", "</tool_call>"),
)

FORMAT = ToolFormat(markup=MARKUP)
