"""GLM 4 with vLLM's template: calls as in GLM 4.5. The template leaves earlier calls and results out."""

from collections.abc import Sequence

from dragoman.core.request import Message, ToolOptions
from dragoman.prompt.tool_formats import glm45
from dragoman.prompt.tool_formats.format import ToolFormat, calls_as_text, results_as_text

MARKUP = glm45.MARKUP

_with_written_calls = calls_as_text(MARKUP, "\n")


def _adapt(messages: Sequence[Message], tools: ToolOptions | None) -> list[Message]:
    return results_as_text(_with_written_calls(messages, tools), "<tool_response>\n{}\n</tool_response>")


FORMAT = ToolFormat(
    markup=MARKUP,
    hints=("<arg_key>parameter_name</arg_key>",),
    adapt=_adapt,
    writes_calls_as_text=True,
)
