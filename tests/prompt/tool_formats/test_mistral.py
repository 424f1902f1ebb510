import re

from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.request import Message, ToolCall
from dragoman.prompt.tool_formats import mistral


def ids(call_id: str) -> tuple[str, str | None]:
    """Return the ids of a call and of its result as the template receives them."""
    request = Message(role="assistant", content="", tool_calls=(ToolCall(call_id, "f", "{}"),))
    response = Message(role="tool", content="42", tool_call_id=call_id)
    call, result = mistral.FORMAT.adapt([request, response], None)
    return call.tool_calls[0].id, result.tool_call_id


@given(st.text())
def test_ids_become_nine_letters_or_digits_the_same_for_call_and_result(call_id: str) -> None:
    call, result = ids(call_id)
    assert re.fullmatch(r"[A-Za-z0-9]{9}", call)
    assert call == result


def test_valid_ids_are_unchanged_and_different_ones_stay_different() -> None:
    assert ids("a1B2c3D4e")[0] == "a1B2c3D4e"
    assert ids("call_1")[0] != ids("call_2")[0]
    assert mistral.FORMAT.adapt([Message(role="tool", content="42")], None) == [Message(role="tool", content="42")]
