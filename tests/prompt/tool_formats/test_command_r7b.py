"""Command's templates write what the assistant says before a call as its thoughts."""

from dragoman.core.request import ChatPrompt, Message, ToolCall
from dragoman.prompt.template import ChatTemplate

TEMPLATE = ChatTemplate(
    "{% for message in messages %}{% if message.tool_calls %}<|START_THINKING|>{{ message.reasoning_content }}"
    "<|END_THINKING|><|START_ACTION|>[{% for call in message.tool_calls %}"
    """{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ call.function.name }}", """
    """"parameters": {{ call.function.arguments | tojson }}}{% endfor %}]<|END_ACTION|>"""
    "{% else %}<|START_RESPONSE|>{{ message.content }}<|END_RESPONSE|>{% endif %}{% endfor %}",
    bos="",
    eos="",
)
CALLS = (ToolCall("call_1", "f", "{}"),)


def written(content: str, reasoning: str | None) -> str:
    messages = (
        Message(role="user", content="Well?"),
        Message(role="assistant", content=content, tool_calls=CALLS, reasoning=reasoning),
        Message(role="assistant", content="Done.", reasoning="Hm."),
    )
    text = TEMPLATE.render(ChatPrompt(messages=messages)).text
    assert text.endswith("<|START_RESPONSE|>Done.<|END_RESPONSE|>")
    return text.partition("<|START_THINKING|>")[2].partition("<|END_THINKING|>")[0]


def test_text_beside_a_call_is_the_plan_if_there_are_no_thoughts() -> None:
    assert TEMPLATE.tool_format == "command_r7b"
    assert written("I look it up.", None) == "I look it up."
    assert written("I look it up.", "I need it.") == "I need it."
    assert written("", "I need it.") == "I need it."
