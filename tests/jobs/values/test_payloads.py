"""Payloads decode to what was encoded, and are compressed."""

import threading
from array import array
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.embedding import EmbeddingRequest, TextPair
from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    JobTimedOut,
    ModelNotFound,
    Overloaded,
    UpstreamFailed,
    UpstreamUnavailable,
)
from dragoman.core.events import Delta, Embedding, Event, Usage
from dragoman.core.jobs import StoredRequest
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolOptions,
)
from dragoman.jobs.values.payloads import (
    off_the_loop,
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
        messages=(Message(role="user", content="é\0", name="a"),),
        tools=ToolOptions((Tool("f", None, {"type": "object"}),)),
        reasoning_effort="low",
        template="{{ x }}",
        template_arguments={"x": 1},
    )
    requests = (
        GenerationRequest(
            model="m", prompt=chat, sampling=SamplingParams(seed=2**64 - 1, logit_bias={5: -1.5}), n=2, priority=300
        ),
        GenerationRequest(
            model="m", prompt=TextPrompt("a" * 1000), response_format=JsonSchemaFormat({"type": "integer"}), logprobs=3
        ),
        GenerationRequest(model="m", prompt=TokenPrompt((1, 2)), resume_token_ids=((1,), ()), adapter="pirate"),
    )
    assert unpack_requests(pack_requests(requests)) == requests


def test_requests_for_embeddings_round_trip() -> None:
    inputs = (TextPrompt("a"), TokenPrompt((1, 2)), TextPair("query", "document"))
    requests = (EmbeddingRequest(model="m", inputs=inputs, dimensions=64, activation=False, priority=3, owner="o"),)
    assert unpack_requests(pack_requests(requests)) == requests


def test_requests_that_earlier_versions_stored_are_read() -> None:
    stored = {
        "model": "m",
        "prompt": {"type": "chat", "messages": [{"role": "user", "content": "Hi"}], "effort": "low"},
        "answer_format": {"type": "json_object"},
        "begun": [[1, 2], []],
    }
    request = GenerationRequest(
        model="m",
        prompt=ChatPrompt(messages=(Message(role="user", content="Hi"),), reasoning_effort="low"),
        response_format=JsonObjectFormat(),
        resume_token_ids=((1, 2), ()),
    )
    assert unpack_requests(b"\0" + msgspec.msgpack.encode([stored])) == (request,)
    assert stored.keys() <= msgspec.to_builtins(request).keys()


CHAT = ChatPrompt(messages=(Message(role="user", content="Hi"),))


@pytest.mark.parametrize("path", [(), ("sampling",), ("prompt",), ("prompt", "messages", 0)], ids=str)
def test_a_request_with_a_field_of_a_newer_version_is_not_read_without_it(path: tuple[str | int, ...]) -> None:
    request = GenerationRequest(model="m", prompt=CHAT, sampling=SamplingParams(top_k=1))
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode((request,)))
    changed = stored[0]
    for step in path:
        changed = changed[step]
    changed["newer"] = 1
    with pytest.raises(msgspec.ValidationError, match="newer"):
        unpack_requests(b"\0" + msgspec.msgpack.encode(stored))


def test_an_older_version_reads_requests_that_use_none_of_its_newer_fields() -> None:
    request = GenerationRequest(model="m", prompt=CHAT)
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode((request,)))
    assert stored == [{"model": "m", "prompt": {"type": "chat", "messages": [{"role": "user", "content": "Hi"}]}}]
    inputs = EmbeddingRequest(model="m", inputs=(TextPrompt("a"),))
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(inputs))
    assert stored == {"model": "m", "inputs": [{"type": "text", "text": "a"}]}


def test_an_error_that_no_job_fails_with_is_stored_as_its_general_kind() -> None:
    class WrongRequest(BadRequest):
        """An error of a dialect."""

    class Defect(DragomanError):
        """An error that clients must not take for theirs."""

    stored = unpack_error(pack_error(WrongRequest("too deep", "tools")))
    assert type(stored) is BadRequest
    assert (stored.message, stored.parameter) == ("too deep", "tools")
    defect = unpack_error(pack_error(Defect("it broke")))
    assert type(defect) is EngineFailed
    assert defect.message == "it broke"


@given(st.binary(max_size=1000))
def test_stored_requests_round_trip(body: bytes) -> None:
    stored_request = StoredRequest(
        codec="infermatic.chat", arguments={"model": "m"}, body=body, answer_id="0" * 32, created_at=1
    )
    assert unpack_stored_request(pack_stored_request(stored_request)) == stored_request


def test_stored_requests_of_earlier_versions_are_read() -> None:
    stored = {
        "name": "infermatic.chat",
        "arguments": {"model": "m"},
        "body": b"{}",
        "answer_id": "0" * 32,
        "created": 1,
    }
    stored_request = StoredRequest(
        codec="infermatic.chat", arguments={"model": "m"}, body=b"{}", answer_id="0" * 32, created_at=1
    )
    assert unpack_stored_request(b"\0" + msgspec.msgpack.encode(stored)) == stored_request
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(stored_request)) == stored


def test_repetitive_payloads_are_compressed() -> None:
    assert len(pack_events([Usage(1, 1, 0)] * 1000)) < 200


def test_large_payloads_that_hardly_shrink_are_stored_as_they_are() -> None:
    random = Random(0)
    vectors = [
        Embedding(index, array("f", [random.gauss(0, 0.03) for _ in range(1024)]).tobytes()) for index in range(32)
    ]
    packed = pack_events(vectors)
    assert packed[:1] == b"\0"
    assert unpack_events(packed) == vectors
    text = [Delta(0, random.choice(["parrot", "says", "told"])) for _ in range(20_000)]
    assert len(pack_events(text)) < 100_000


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_only_large_payloads_are_unpacked_in_a_thread(size: int) -> None:
    def unpack(payload: bytes) -> tuple[int, bool]:
        return len(payload), threading.current_thread() is threading.main_thread()

    assert await off_the_loop(unpack, bytes(size)) == (size, size == 10)


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


def test_the_failure_of_an_upstream_is_known_as_one_later() -> None:
    again = unpack_error(pack_error(UpstreamUnavailable("Late", "timed_out", 2.0)))
    assert type(again) is UpstreamFailed
    assert vars(again) == {"message": "Late", "fault": "timed_out"}


def test_other_errors_become_engine_failures_with_the_same_message() -> None:
    again = unpack_error(pack_error(Overloaded("Much to do", 5)))
    assert isinstance(again, EngineFailed)
    assert again.message == "Much to do"
