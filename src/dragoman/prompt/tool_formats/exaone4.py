"""EXAONE 4: as Hermes, without line ends around the JSON.

<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<tool_call>",
    call_open="<tool_call>",
    call_close="</tool_call>",
    separator="\n",
    special_tokens=("<tool_call>", "</tool_call>"),
)

FORMAT = ToolFormat(markup=MARKUP)
