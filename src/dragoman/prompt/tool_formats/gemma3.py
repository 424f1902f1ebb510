"""Gemma 3: an answer is either text or a list of Python calls, as in Llama 3.2.

[get_weather(city="Oslo", days=3), get_time()]

The template puts nothing between the arguments of an earlier call. Where it is given calls as text, it requires user
and assistant to alternate, so that results are a user's message, as it writes them itself.
"""

from collections.abc import Sequence

from dragoman.core.request import Message, ToolOptions
from dragoman.prompt.tool_formats import pythonic
from dragoman.prompt.tool_formats.format import ToolFormat, results_as_text

MARKUP = pythonic.MARKUP


def _adapt(messages: Sequence[Message], tools: ToolOptions | None) -> list[Message]:
    return results_as_text(pythonic.FORMAT.adapt(messages, tools), "<tool_response>\n{}</tool_response>")


FORMAT = ToolFormat(
    markup=MARKUP,
    hints=("respond with a python list of the function calls",),
    adapt=_adapt,
    writes_calls_as_text=True,
)
