"""Conversations in the forms that templates demand."""

from dragoman.core.request import ChatPrompt, Message, ToolCall
from dragoman.prompt.template import ChatTemplate
from tests.support.chat_templates import MISTRAL

USER = Message(role="user", content="Hi")

ALTERNATING_AROUND_TOOLS = (
    """
{%- set ns = namespace(turns=0) %}
{%- for message in messages if message.role != 'tool' and not message.tool_calls %}
    {%- if (message.role == 'user') != (ns.turns % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {%- set ns.turns = ns.turns + 1 %}
{%- endfor %}"""
    + MISTRAL
)
"""Demands an answer between a result and a user's message, as Mistral's templates do."""


def test_a_users_message_may_follow_results_of_tools() -> None:
    """Claude Code writes its reminders behind results."""
    call = Message(role="assistant", content="", tool_calls=(ToolCall("abcdefgh9", "f", "{}"),))
    result = Message(role="tool", content="12:00", tool_call_id="abcdefgh9")
    template = ChatTemplate(ALTERNATING_AROUND_TOOLS, bos="", eos="")

    def rendered(*messages: Message) -> str:
        return template.render(ChatPrompt(messages=(USER, call, *messages))).text

    late = Message(role="user", content="And now?")
    joined = Message(role="tool", content="12:00\n\nAnd now?", tool_call_id="abcdefgh9")
    assert rendered(result, late) == rendered(joined)
    assert rendered(result, result, late) == rendered(result, joined)
