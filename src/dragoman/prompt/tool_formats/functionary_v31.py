"""Functionary 3.1, and Llama 3.1's own functions: the function's name is a part of the tag.

<function=get_weather>{"city": "Oslo"}</function>
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<function=",
    head_before_name="<function=",
    head_after_name=">",
    tail="",
    call_close="</function>",
)

FORMAT = ToolFormat(markup=MARKUP)
