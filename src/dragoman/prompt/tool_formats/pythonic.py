"""Llama 3.2 and 4, and ToolACE: an answer is either text or a list of Python calls.

    [get_weather(city="Oslo", days=3), get_time()]

Llama 4 may put the special token `<|python_start|>` in front. The templates quote no string of an earlier call, or
every value.
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.output.value_syntax import PYTHON
from dragoman.prompt.tool_formats.format import ToolFormat, calls_as_text

MARKUP = ToolCallMarkup(
    trigger="[",
    only_at_start=True,
    text_cannot_begin_with=r"[ \t\r\n]*\[[ \t\r\n]*[^\s()\[\]]+\(",
    section_open="[",
    head_before_name="",
    head_after_name="(",
    values=PYTHON,
    tail=")",
    separator=", ",
    section_close="]",
    optional_prefix="<|python_start|>",
    special_tokens=("<|python_start|>",),
)

FORMAT = ToolFormat(markup=MARKUP, adapt=calls_as_text(MARKUP), writes_calls_as_text=True)
