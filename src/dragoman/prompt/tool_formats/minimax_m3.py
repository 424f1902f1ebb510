"""MiniMax M3: a section of calls, whose arguments are elements, named after the parameters, within each other.

    ]<]minimax[>[<tool_call>
    ]<]minimax[>[<invoke name="get_weather">]<]minimax[>[<place>]<]minimax[>[<city>Oslo]<]minimax[>[</city>
    ]<]minimax[>[</place>]<]minimax[>[</invoke>
    ]<]minimax[>[</tool_call>

without line ends within a call. The templates leave out members of earlier calls that are null.
"""

from typing import Final

from dragoman.output.element_syntax import ElementSyntax
from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

_PREFIX: Final = "]<]minimax[>["

MARKUP = ToolCallMarkup(
    trigger=f"{_PREFIX}<tool_call>",
    section_open=f"{_PREFIX}<tool_call>\n",
    head_before_name=f'{_PREFIX}<invoke name="',
    head_after_name='">',
    elements=ElementSyntax(prefix=_PREFIX),
    tail=f"{_PREFIX}</invoke>",
    separator="\n",
    section_close=f"\n{_PREFIX}</tool_call>",
    special_tokens=(_PREFIX, "<tool_call>", "</tool_call>"),
)

FORMAT = ToolFormat(markup=MARKUP)
