import msgspec
import pytest

from dragoman.core.errors import BadRequest
from dragoman.core.events import Usage
from dragoman.core.request import TextPrompt, TokenPrompt
from dragoman.dialects.openai.shapes import (
    MAX_PROMPTS,
    TextCompletionPrompt,
    completion_usage,
    text_prompts,
)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [TextPrompt("")]),
        ("one", [TextPrompt("one")]),
        (["one"], [TextPrompt("one")]),
        (["one", "two"], [TextPrompt("one"), TextPrompt("two")]),
        ([1, 2], [TokenPrompt((1, 2))]),
        ([[1, 2], [3]], [TokenPrompt((1, 2)), TokenPrompt((3,))]),
        ([[]], [TokenPrompt(())]),
    ],
)
def test_a_prompt_is_one_or_several_texts_or_token_lists(prompt: TextCompletionPrompt, expected: list[object]) -> None:
    assert text_prompts(prompt) == expected


@pytest.mark.parametrize("prompt", [[], ["one", 1], [1, [1]], [[1], "one"], [2**64], [[-(2**70)]]])
def test_other_prompts_are_refused(prompt: TextCompletionPrompt) -> None:
    with pytest.raises(BadRequest, match=r"^prompt must") as caught:
        text_prompts(prompt)
    assert caught.value.parameter == "prompt"


def test_the_number_of_prompts_is_limited_and_the_number_of_tokens_is_not() -> None:
    assert len(text_prompts(["one"] * MAX_PROMPTS)) == MAX_PROMPTS
    assert len(text_prompts([1] * (MAX_PROMPTS + 1))) == 1
    with pytest.raises(BadRequest, match=r"^prompt takes at most 128 prompts, got 129$"):
        text_prompts(["one"] * (MAX_PROMPTS + 1))
    with pytest.raises(BadRequest, match="at most 128"):
        text_prompts([[1]] * (MAX_PROMPTS + 1))


def test_usage_adds_up_and_reports_cached_tokens() -> None:
    assert msgspec.to_builtins(completion_usage(Usage(12, 3, 8))) == {
        "completion_tokens": 3,
        "prompt_tokens": 12,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 8},
    }


def test_usage_reports_reasoning_tokens_if_any() -> None:
    told = msgspec.to_builtins(completion_usage(Usage(12, 8, 0, 5)))
    assert told["completion_tokens_details"] == {"reasoning_tokens": 5}
