"""What a client sends back of earlier answers reaches the prompt, in every dialect with OpenAI's messages."""

from typing import Any

import pytest

from dragoman.core.request import ChatPrompt, Message
from dragoman.dialects.http.validation import InvalidFields
from tests.support.dialects.cases import DIALECT_CASES, ChatDialectCase, DialectCase

CASES = [case for case in DIALECT_CASES if isinstance(case, ChatDialectCase)]

QUESTION = {"role": "user", "content": "Hi"}


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> DialectCase:
    found: DialectCase = request.param
    return found


def answer_of(case: DialectCase, **members: Any) -> Message:
    """Return what an earlier answer with these members becomes."""
    [request] = case.decode(messages=[QUESTION, {"role": "assistant", **members}, QUESTION]).requests
    assert isinstance(request.prompt, ChatPrompt)
    return request.prompt.messages[1]


@pytest.mark.parametrize(
    "reasoning",
    [{"reasoning": "Hm"}, {"reasoning_content": "Hm"}, {"reasoning": "Hm", "reasoning_content": "Hm"}],
    ids=" and ".join,
)
def test_reasoning_is_read_under_both_of_its_names(case: DialectCase, reasoning: dict[str, str]) -> None:
    assert answer_of(case, content="So", **reasoning) == Message(role="assistant", content="So", reasoning="Hm")


@pytest.mark.parametrize(
    "refusal",
    [
        {"content": None, "refusal": "No."},
        {"refusal": "No."},
        {"content": [{"type": "refusal", "refusal": "No."}]},
        {"content": "No.", "refusal": None},
    ],
)
def test_a_refusal_is_the_text_of_its_message(case: DialectCase, refusal: dict[str, Any]) -> None:
    assert answer_of(case, **refusal) == Message(role="assistant", content="No.")


def test_only_the_assistant_refuses(case: DialectCase) -> None:
    for refusal in ({"content": None, "refusal": "No."}, {"content": [{"type": "refusal", "refusal": "No."}]}):
        with pytest.raises(InvalidFields):
            case.decode(messages=[{"role": "user", **refusal}])


def test_a_refusal_needs_its_text(case: DialectCase) -> None:
    with pytest.raises(InvalidFields, match=r"content\[0\].refusal"):
        answer_of(case, content=[{"type": "refusal"}])
