"""vLLM's fields that say how a conversation is rendered."""

from collections.abc import Sequence

from dragoman.core.errors import BadRequest
from dragoman.core.request import Message, ReasoningEffort
from dragoman.dialects.vendors.infermatic.wire import SentEffort


def opens_turn(messages: Sequence[Message], *, add: bool | None, continue_message: bool) -> bool:
    """Return whether the prompt begins the assistant's turn. Raises BadRequest.

    `add` and `continue_message` are the fields add_generation_prompt and continue_final_message.
    """
    if not continue_message:
        return add is not False
    if add:
        raise BadRequest(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.", "continue_final_message"
        )
    if messages and messages[-1].tool_calls:
        raise BadRequest("A message with tool calls cannot be continued", "continue_final_message")
    return False


def reasoning_effort(sent: SentEffort | None) -> ReasoningEffort | None:
    """Convert an effort. Those above `high` count as it, which is the highest here."""
    return "high" if sent == "xhigh" or sent == "max" else sent
