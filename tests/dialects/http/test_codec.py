"""Answers can be rendered again from the stored request alone."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given

from dragoman.core.errors import BadRequest, EngineFailed
from dragoman.core.events import Delta, Event, Finished, Usage
from dragoman.core.jobs import StoredRequest
from dragoman.core.limits import check_sampling
from dragoman.core.models import ServedModel
from dragoman.dialects.http.codec import DecodedRequest, ReceivedRequest, restore_request
from dragoman.dialects.http.sse import frame
from dragoman.jobs.values.payloads import pack_requests
from dragoman.server.dialects import DIALECTS, ENDPOINT_CODECS
from tests.support.dialects.answer_events import answer_events
from tests.support.dialects.cases import InfermaticChat
from tests.support.dialects.decode_contexts import CREATED, ID, decode_context

MODELS = [ServedModel(id="echo", aliases=("parrot",), context_length=8192, fingerprint="fp_0123456789ab")]
CHAT: dict[str, Any] = {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
TEXT: dict[str, Any] = {"model": "parrot", "prompt": "Hi", "stream": True, "stream_options": {"include_usage": True}}
BODIES: dict[str, dict[str, Any]] = {
    "anthropic.messages": CHAT | {"max_tokens": 9},
    "infermatic.chat": CHAT,
    "infermatic.text": TEXT,
    "infermatic.queued_chat": CHAT | {"priority": 3},
    "openai.chat": CHAT,
    "openai.text": TEXT,
    "openai.embeddings": {"model": "parrot", "input": ["Hi", "there"]},
    "infermatic.embeddings": {"model": "parrot", "input": ["Hi", "there"]},
    "infermatic.rerank": {"model": "parrot", "query": "Hi", "documents": ["there"]},
    "infermatic.score": {"model": "parrot", "text_1": "Hi", "text_2": "there"},
    "responses.response": {"model": "echo", "input": "Hi"},
    "float16.chat": CHAT,
    "float16.text": TEXT,
    "empower.chat": CHAT,
    "arcee.chat": CHAT,
    "scale.deployment_chat": {"prompt": "Hi", "chat_history": []},
    "scale.deployment_text": {"prompt": "Hi"},
    "scale.chat": CHAT,
    "scale.text": TEXT,
}
ANSWER: list[Event] = [Delta(0, "Hel", [1]), Delta(0, "lo", [2]), Finished(0, "stop"), Usage(3, 2, 1)]


def stream_and_document(call: DecodedRequest) -> list[bytes]:
    sent = [sent for event in ANSWER for sent in call.builder.feed(event)]
    return [*map(frame, [*sent, *call.builder.terminator()]), call.builder.build()]


def test_codec_names_are_unique_and_stable() -> None:
    assert ENDPOINT_CODECS.keys() == BODIES.keys()
    assert len(ENDPOINT_CODECS) == sum(len(dialect.ENDPOINT_CODECS) for dialect in DIALECTS.values())


def arguments_of(name: str) -> dict[str, str]:
    return {"deployment": "echo"} if name.startswith(("float16", "scale.deployment")) else {}


@pytest.mark.parametrize("name", BODIES)
def test_a_restored_request_renders_the_same_response(name: str) -> None:
    codec = ENDPOINT_CODECS[name]
    context, body = decode_context(MODELS, **arguments_of(name)), json.dumps(BODIES[name]).encode()
    received = ReceivedRequest(codec, context, body, codec.decode(body, context))
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(received.to_stored()), type=StoredRequest)
    restored = restore_request(stored, ENDPOINT_CODECS)
    assert (stored.codec, stored.answer_id, stored.created_at) == (name, ID, CREATED)
    assert stream_and_document(restored.decoded) == stream_and_document(received.decoded)
    assert restored.decoded.requests == received.decoded.requests
    assert restored.decoded.embedding == received.decoded.embedding
    assert restored.decoded.priority == received.decoded.priority


def test_an_unknown_codec_raises_engine_failed() -> None:
    with pytest.raises(EngineFailed, match=r"form 'infermatic\.speech'"):
        restore_request(
            StoredRequest(codec="infermatic.speech", arguments={}, body=b"{}", answer_id=ID, created_at=CREATED),
            ENDPOINT_CODECS,
        )


def test_errors_are_mapped_to_client_terms_repeatedly() -> None:
    body = json.dumps({"prompt": "Hi", "chat_history": []}).encode()
    call = ENDPOINT_CODECS["scale.deployment_chat"].decode(body, decode_context(deployment="echo"))
    error = BadRequest("Odd", "messages")
    for _ in range(2):
        assert call.in_client_terms(error) is error
        assert error.parameter == "chat_history"


@given(answer_events(InfermaticChat()))
def test_response_builders_are_deterministic(events: list[Event]) -> None:
    one, other = (InfermaticChat().decode(stream=True).builder for _ in range(2))
    for event in events:
        assert list(one.feed(event)) == list(other.feed(event))
    assert one.build() == other.build()


UNSUPPORTED = ("suffix", "prompt", "conversation", "messages", "input_type", "audio", "functions", "mock_response")
"""Fields that some dialects refuse by name, whatever their type."""


@pytest.mark.parametrize("name", ENDPOINT_CODECS)
@pytest.mark.parametrize("value", [b'"\xff"', b'{"\xff": 1}', b"1e400", b"9" * 5000, b'"\x01"', b"[" * 5000], ids=len)
def test_what_no_json_can_hold_is_refused_in_fields_that_are_not_supported_too(name: str, value: bytes) -> None:
    context = decode_context(MODELS, **arguments_of(name))
    for field in UNSUPPORTED:
        sent = json.dumps({key: value for key, value in BODIES[name].items() if key != field}).encode()
        body = b'%b, "%b": %b}' % (sent[:-1], field.encode(), value)
        try:
            ENDPOINT_CODECS[name].decode(body, context)
        except BadRequest as error:
            ENDPOINT_CODECS[name].errors.render(error)


COUNTS = [
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens", "thinking_token_budget", "top_k"),
    *("n", "best_of", "logprobs", "top_logprobs", "prompt_logprobs", "truncate_prompt_tokens", "dimensions", "top_n"),
    *("seed", "random_seed", "priority"),
]


@pytest.mark.parametrize("name", ENDPOINT_CODECS)
@pytest.mark.parametrize("number", [b"1e30", b"1" + b"0" * 30, b"18446744073709551615"])
def test_no_number_reaches_an_engine_that_its_messages_cannot_hold(name: str, number: bytes) -> None:
    for fields in (*((field,) for field in COUNTS), ("truncate_prompt_tokens", "max_tokens")):
        sent = json.dumps({key: value for key, value in BODIES[name].items() if key not in fields}).encode()
        body = sent[:-1] + b"".join(b', "%b": %b' % (field.encode(), number) for field in fields) + b"}"
        try:
            decoded = ENDPOINT_CODECS[name].decode(body, decode_context(MODELS, **arguments_of(name)))
            sampling = [check_sampling(each.sampling, min_max_tokens=0) for each in decoded.requests]
        except BadRequest:
            continue
        prompts = [each.prompt for each in decoded.requests]
        assert msgspec.msgpack.encode((sampling, prompts, decoded.embedding, decoded.priority))


@pytest.mark.parametrize("name", ENDPOINT_CODECS)
@pytest.mark.parametrize("value", ["1" + "0" * 30, "[" * 600 + "]" * 600], ids=len)
def test_no_json_reaches_the_queue_that_its_rows_cannot_hold(name: str, value: str) -> None:
    deep = f'{{"type": "object", "properties": {{"a": {{"const": {value}}}}}}}'
    fields = {
        "chat_template_kwargs": f'{{"a": {value}}}',
        "documents": f'[{{"a": {value}}}]',
        "tools": f'[{{"type": "function", "name": "f", "function": {{"name": "f", "parameters": {deep}}}}}]',
        "metadata": f'{{"a": {value}}}',
        "guided_json": deep,
    }
    for field, text in fields.items():
        sent = json.dumps({key: value for key, value in BODIES[name].items() if key != field})
        try:
            body = f'{sent[:-1]}, "{field}": {text}}}'.encode()
            decoded = ENDPOINT_CODECS[name].decode(body, decode_context(MODELS, **arguments_of(name)))
        except BadRequest:
            continue
        assert pack_requests((*decoded.requests, *filter(None, [decoded.embedding])))
