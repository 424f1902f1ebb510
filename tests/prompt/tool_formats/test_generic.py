from dragoman.core.request import Message, Tool, ToolCall, ToolOptions
from dragoman.prompt.tool_formats import generic

ONE_TOOL = ToolOptions((Tool("f"),))
CALL = ToolCall("call_1", "f", '{"a": 1}')
OTHER = ToolCall("call_2", "f", "")
USER = Message(role="user", content="Well?")


def adapt(*messages: Message, tools: ToolOptions | None = None) -> list[Message]:
    return generic.FORMAT.adapt(messages, tools)


def test_a_conversation_without_tools_is_unchanged() -> None:
    messages = [
        Message(role="system", content="Be brief."),
        USER,
        USER,
        Message(role="assistant", content="Yes.", reasoning="Hm."),
        USER,
    ]
    assert adapt(*messages) == messages


def test_the_system_message_ends_with_the_functions() -> None:
    for messages, beginning in (
        ((USER,), "You may"),
        ((Message(role="system", content="Be brief."), USER), "Be brief.\n\nYou may"),
    ):
        system, *rest = adapt(*messages, tools=ONE_TOOL)
        assert rest == [USER]
        assert system.role == "system"
        assert system.text.startswith(beginning)
        assert '<tools>\n{"type": "function", "function": {"name": "f", ' in system.content
        assert '<tool_call>\n{"name": "name of the function", "arguments": {' in system.content


def test_the_instruction_states_whether_several_calls_are_allowed() -> None:
    (several,) = adapt(tools=ONE_TOOL)
    (one,) = adapt(tools=ToolOptions((Tool("f"),), parallel=False))
    assert "if several are needed" in several.content
    assert "no more than one function at a time" in one.content


def test_calls_stand_at_the_end_of_their_message() -> None:
    assert adapt(Message(role="assistant", content="Let me see.", tool_calls=(CALL, OTHER))) == [
        Message(
            role="assistant",
            content='Let me see.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
        )
    ]


def test_results_and_the_following_user_message_become_one_user_message() -> None:
    results = [
        Message(role="tool", content="1", tool_call_id="call_1"),
        Message(role="tool", content="2", tool_call_id="call_2"),
    ]
    text = "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"
    assert adapt(Message(role="assistant", content="a"), *results, Message(role="assistant", content="b")) == [
        Message(role="assistant", content="a"),
        Message(role="user", content=text),
        Message(role="assistant", content="b"),
    ]
    assert adapt(*results, USER) == [Message(role="user", content=f"{text}\nWell?")]
    assert adapt(USER, *results) == [Message(role="user", content=f"Well?\n{text}")]
