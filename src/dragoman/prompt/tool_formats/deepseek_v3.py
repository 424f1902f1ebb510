"""DeepSeek V3 and R1: each call is a block of JSON after its function's name.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
```json
{"city": "Oslo"}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

The template of R1's distillation into Llama does not close a single earlier call.
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

SPECIAL_TOKENS = (
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
)

MARKUP = ToolCallMarkup(
    trigger="<｜tool▁calls▁begin｜>",
    section_open="<｜tool▁calls▁begin｜>",
    call_open="<｜tool▁call▁begin｜>",
    head_before_name="function<｜tool▁sep｜>",
    head_after_name="\n```json\n",
    tail="\n```",
    call_close="<｜tool▁call▁end｜>",
    separator="\n",
    section_close="<｜tool▁calls▁end｜>",
    special_tokens=SPECIAL_TOKENS,
)

FORMAT = ToolFormat(markup=MARKUP, hints=("<｜tool▁calls▁begin｜>",))
