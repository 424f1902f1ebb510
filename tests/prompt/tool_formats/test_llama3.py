from dragoman.core.request import Message, ToolCall
from dragoman.prompt.tool_formats import llama3

A, B = ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}")
USER = Message(role="user", content="Well?")


def result(call_id: str) -> Message:
    return Message(role="tool", content="42", tool_call_id=call_id)


def adapt(*messages: Message) -> list[Message]:
    return llama3.FORMAT.adapt(messages, None)


def test_several_calls_become_messages_followed_by_their_results() -> None:
    assert adapt(USER, Message(role="assistant", content="So.", tool_calls=(A, B)), result("b"), result("a"), USER) == [
        USER,
        Message(role="assistant", content="So.", tool_calls=(A,)),
        result("a"),
        Message(role="assistant", content="", tool_calls=(B,)),
        result("b"),
        USER,
    ]


def test_no_result_is_lost_or_duplicated() -> None:
    both_called_a = Message(role="assistant", content="", tool_calls=(A, A))
    alone = Message(role="assistant", content="", tool_calls=(A,))
    assert adapt(both_called_a, result("a"), result("c")) == [alone, result("a"), alone, result("c")]


def test_other_conversations_are_unchanged() -> None:
    messages = [
        USER,
        Message(role="assistant", content="", tool_calls=(A,)),
        result("a"),
        Message(role="assistant", content="So."),
    ]
    assert adapt(*messages) == messages
