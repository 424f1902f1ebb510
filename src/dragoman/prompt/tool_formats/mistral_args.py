"""Mistral's tokenizers from v11 on, as in Devstral and Ministral 3: a special token before each call.

[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat
from dragoman.prompt.tool_formats.mistral import with_short_ids

MARKUP = ToolCallMarkup(
    trigger="[TOOL_CALLS]",
    head_before_name="[TOOL_CALLS]",
    head_after_name="[ARGS]",
    tail="",
    special_tokens=("[TOOL_CALLS]", "[ARGS]"),
)

FORMAT = ToolFormat(markup=MARKUP, adapt=with_short_ids)
