"""Solar Open: each call has an id that the model chooses.

<|tool_calls|><|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>get_weather<|tool_call:args|>{"city": "Oslo"}
<|tool_call:end|><|calls|>
"""

from dragoman.output.markup import ID, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat, text_before_calls

MARKUP = ToolCallMarkup(
    trigger="<|tool_calls|>",
    section_open="<|tool_calls|>",
    call_open="<|tool_call:begin|>",
    head_before_name=f"{ID}<|tool_call:name|>",
    head_after_name="<|tool_call:args|>",
    tail="",
    call_close="<|tool_call:end|>",
    section_close="<|calls|>",
    id_pattern="[a-z0-9]{10}",  # as the template tells the model
    special_tokens=(
        "<|tool_calls|>",
        "<|tool_call:begin|>",
        "<|tool_call:name|>",
        "<|tool_call:args|>",
        "<|tool_call:end|>",
        "<|calls|>",
    ),
)

FORMAT = ToolFormat(markup=MARKUP, adapt=text_before_calls)
