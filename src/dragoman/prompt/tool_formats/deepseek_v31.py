"""DeepSeek V3.1: each call is its function's name and its arguments.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Oslo"}
<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.deepseek_v3 import SPECIAL_TOKENS
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<｜tool▁calls▁begin｜>",
    section_open="<｜tool▁calls▁begin｜>",
    call_open="<｜tool▁call▁begin｜>",
    head_before_name="",
    head_after_name="<｜tool▁sep｜>",
    tail="",
    call_close="<｜tool▁call▁end｜>",
    section_close="<｜tool▁calls▁end｜>",
    special_tokens=SPECIAL_TOKENS,
)

FORMAT = ToolFormat(markup=MARKUP)
