"""Payloads decode to what was encoded, and are compressed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    JobTimedOut,
    ModelNotFound,
    Overloaded,
)
from dragoman.core.events import Event, Usage
from dragoman.core.jobs import StoredRequest
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonSchemaFormat,
    Message,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolOptions,
)
from dragoman.jobs.values.payloads import (
    pack_error,
    pack_events,
    pack_requests,
    pack_stored_request,
    unpack_error,
    unpack_events,
    unpack_requests,
    unpack_stored_request,
)
from tests.support.dialects.answer_events import answer_events
from tests.support.dialects.cases import DIALECT_CASES


@given(st.sampled_from(DIALECT_CASES).flatmap(answer_events))
def test_events_round_trip(events: list[Event]) -> None:
    assert unpack_events(pack_events(events)) == events


def test_requests_round_trip() -> None:
    chat = ChatPrompt(
        (Message("user", "é\0", name="a"),),
        ToolOptions((Tool("f", None, {"type": "object"}),)),
        "low",
        "{{ x }}",
        {"x": 1},
    )
    requests = (
        GenerationRequest("m", chat, SamplingParams(seed=2**64 - 1, logit_bias={5: -1.5}), n=2, priority=300),
        GenerationRequest("m", TextPrompt("a" * 1000), answer_format=JsonSchemaFormat({"type": "integer"}), logprobs=3),
        GenerationRequest("m", TokenPrompt((1, 2)), begun=((1,), ()), adapter="pirate"),
    )
    assert unpack_requests(pack_requests(requests)) == requests


@given(st.binary(max_size=1000))
def test_stored_requests_round_trip(body: bytes) -> None:
    stored_request = StoredRequest("infermatic.chat", {"model": "m"}, body, "0" * 32, 1)
    assert unpack_stored_request(pack_stored_request(stored_request)) == stored_request


def test_repetitive_payloads_are_compressed() -> None:
    assert len(pack_events([Usage(1, 1, 0)] * 1000)) < 200


ERRORS = (
    BadRequest("No", "max_tokens"),
    BadRequest("No"),
    ContextOverflow(10, 5, "Shorten it.", at_least=True),
    ModelNotFound("m"),
    JobTimedOut("Late"),
    EngineFailed("Broken"),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_round_trip(error: DragomanError) -> None:
    again = unpack_error(pack_error(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)


def test_other_errors_become_engine_failures_with_the_same_message() -> None:
    again = unpack_error(pack_error(Overloaded("Much to do", 5)))
    assert isinstance(again, EngineFailed)
    assert again.message == "Much to do"
