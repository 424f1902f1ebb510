"""Functionary 3.2: each text and each call has a recipient, which is all or a function.

    all
    Let me see.>>>get_weather
    {"city": "Oslo"}>>>get_time
    {}

The prompt ends with the first `>>>`. Texts may have it too, unless a function of the request and a line end follow it.
Python code without JSON belongs to a code interpreter, a tool of another type than functions.
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.output.text_element import TextElement
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger=">>>",
    trigger_has_name=True,
    reserved_names=("all",),
    call_open=">>>",
    head_before_name="",
    head_after_name="\n",
    tail="",
)

TO_ALL = TextElement(opening="all\n", prompt_end=MARKUP.call_open)
"""What stands before a text."""

FORMAT = ToolFormat(markup=MARKUP)
