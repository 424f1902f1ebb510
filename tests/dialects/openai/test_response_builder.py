"""The usage in an answer."""

import msgspec

from dragoman.core.events import Usage
from dragoman.dialects.openai.response_builder import completion_usage


def test_usage_adds_up_and_reports_cached_tokens() -> None:
    assert msgspec.to_builtins(completion_usage(Usage(12, 3, 8))) == {
        "completion_tokens": 3,
        "prompt_tokens": 12,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 8},
    }


def test_usage_reports_reasoning_tokens_if_any() -> None:
    sent = msgspec.to_builtins(completion_usage(Usage(12, 8, 0, 5)))
    assert sent["completion_tokens_details"] == {"reasoning_tokens": 5}
