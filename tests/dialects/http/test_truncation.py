"""The order in which messages of a conversation are dropped."""

import pytest

from dragoman.core.request import ChatPrompt, Message
from dragoman.dialects.http.truncation import TruncationPlan


def truncation_plan(roles: str) -> TruncationPlan:
    """Return the plan for a conversation, given by the first letters of its roles."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    messages = [{"role": names[role], "content": f"{role}{index}"} for index, role in enumerate(roles)]
    return TruncationPlan(ChatPrompt(messages=tuple(Message(**message) for message in messages)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("roles", "steps"),
    [
        ("u", ["u0"]),
        ("su", ["s0 u1", "u1"]),
        ("uau", ["u0 a1 u2", "u2"]),
        ("auu", ["a0 u1 u2", "u1 u2", "u2"]),
        ("uauau", ["u0 a1 u2 a3 u4", "u2 a3 u4", "u4"]),
        ("suasuau", ["s0 u1 a2 s3 u4 a5 u6", "s0 s3 u4 a5 u6", "s0 s3 u6", "s3 u6", "u6"]),
        ("uaaau", ["u0 a1 a2 a3 u4", "u4"]),
    ],
)
def test_turns_go_first_then_system_messages_oldest_first(roles: str, steps: list[str]) -> None:
    plan = truncation_plan(roles)
    remaining = [plan.drop_first(count).messages for count in plan.drop_counts]
    assert [" ".join(message.text for message in messages) for messages in remaining] == steps


def test_a_truncated_conversation_keeps_its_other_fields() -> None:
    beside = ChatPrompt(
        messages=(Message(role="user", content="a"), Message(role="user", content="b")),
        reasoning_effort="low",
        template="t",
    )
    remaining = TruncationPlan(beside).drop_first(1)
    assert (remaining.messages, remaining.reasoning_effort, remaining.template) == (
        (Message(role="user", content="b"),),
        "low",
        "t",
    )
