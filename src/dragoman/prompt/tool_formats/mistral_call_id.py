"""Mistral's tokenizers of v11, as in Mistral Small 3.2: each call has an id.

[TOOL_CALLS]get_weather[CALL_ID]aB3dE6gH9[ARGS]{"city": "Oslo"}
"""

from dragoman.output.markup import ID, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat
from dragoman.prompt.tool_formats.mistral import ID_PATTERN, with_short_ids

MARKUP = ToolCallMarkup(
    trigger="[TOOL_CALLS]",
    head_before_name="[TOOL_CALLS]",
    head_after_name=f"[CALL_ID]{ID}[ARGS]",
    tail="",
    id_pattern=ID_PATTERN,
    special_tokens=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
)

FORMAT = ToolFormat(markup=MARKUP, adapt=with_short_ids)
