"""Phi-4 mini in vLLM's template, and Firefunction: a list of calls after a word.

functools[{"name": "get_weather", "arguments": {"city": "Oslo"}}]
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="functools[",
    section_open="functools[",
    separator=", ",
    section_close="]",
)

FORMAT = ToolFormat(markup=MARKUP, hints=("functools[",))
