"""MiniMax M2: a section of calls, each with a tagged value for each parameter.

<minimax:tool_call>
<invoke name="get_weather">
<parameter name="city">Oslo</parameter>
</invoke>
</minimax:tool_call>
"""

from dragoman.output.markup import ParameterMarkup, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<minimax:tool_call>",
    section_open="<minimax:tool_call>\n",
    head_before_name='<invoke name="',
    head_after_name='">\n',
    parameters=ParameterMarkup(before_name='<parameter name="', after_name='">', close="</parameter>"),
    tail="</invoke>",
    separator="\n",
    section_close="\n</minimax:tool_call>",
    special_tokens=("<minimax:tool_call>", "</minimax:tool_call>"),
)

FORMAT = ToolFormat(markup=MARKUP)
