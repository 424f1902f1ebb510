"""xLAM: an answer is either text or a list of calls.

[{"name": "get_weather", "arguments": {"city": "Oslo"}}]
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger='[{"name": "',
    only_at_start=True,
    section_open="[",
    separator=", ",
    section_close="]",
)

FORMAT = ToolFormat(markup=MARKUP)
