"""InternLM 2: a call between special tokens.

<|action_start|><|plugin|>
{"name": "get_weather", "arguments": {"city": "Oslo"}}<|action_end|>
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<|action_start|>",
    call_open="<|action_start|><|plugin|>\n",
    call_close="<|action_end|>",
    separator="\n",
    special_tokens=("<|action_start|>", "<|plugin|>", "<|action_end|>"),
)

FORMAT = ToolFormat(markup=MARKUP)
