"""What engines of upstreams make of errors, cut connections and rubbish."""

import json

import msgspec
import pytest

from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    ModelNotFound,
    ReplicaFailed,
    UpstreamFailed,
    UpstreamUnavailable,
)
from dragoman.core.events import Delta, Finished, Started, Usage
from dragoman.core.request import GenerationRequest, SamplingParams, TextPrompt
from dragoman.engines.upstream.time_limits import UpstreamTimeouts
from tests.support.scripted_upstream import (
    HEAD,
    LAST_CHUNK,
    ScriptedRequest,
    chunk,
    event,
    hang_after,
    response,
)
from tests.support.timeouts import TEST_TIMEOUT_SECONDS
from tests.support.upstream_engines import (
    DONE,
    FINISH,
    HELLO_TOKENS,
    KEY,
    REQUEST,
    USAGE,
    ModelServer,
    collect,
    document,
    engine_of,
    sending,
    text_chunk,
)

FAILURES: list[tuple[tuple[bytes, ...], type[DragomanError], str]] = [
    ((response(503),), UpstreamUnavailable, "failed"),
    ((response(500, b"Traceback ..."),), UpstreamUnavailable, "failed"),
    ((response(429, b"", "retry-after: 7"),), UpstreamUnavailable, "limited"),
    ((response(401),), UpstreamUnavailable, "configuration"),
    ((response(404),), UpstreamUnavailable, "configuration"),
    ((response(302, b"", "location: http://169.254.169.254/"),), UpstreamUnavailable, "configuration"),
    ((document({"error": {"message": "no"}}),), UpstreamUnavailable, "failed"),
    ((HEAD, event(b'{"error":{"message":"out of memory"}}')), UpstreamUnavailable, "failed"),
    ((HEAD, LAST_CHUNK), UpstreamUnavailable, "failed"),
    ((HEAD, event(b"no json")), UpstreamUnavailable, "failed"),
    ((HEAD,), UpstreamUnavailable, "failed"),
    ((HEAD, text_chunk("Hel")), UpstreamFailed, ""),
    ((HEAD, text_chunk("Hel"), LAST_CHUNK), UpstreamFailed, ""),
    ((HEAD, text_chunk("Hel"), event(b'{"error":{}}')), UpstreamFailed, ""),
]


@pytest.mark.parametrize(("parts", "error", "fault"), FAILURES)
async def test_a_failure_before_the_first_token_may_be_tried_elsewhere_and_a_later_one_may_not(
    parts: tuple[bytes, ...], error: type[DragomanError], fault: str
) -> None:
    server = ModelServer(completions=sending(*parts))
    async with engine_of(server) as engine:
        with pytest.raises(EngineFailed) as caught:
            await collect(engine)
        assert (await engine.statistics()).running == 0
    assert type(caught.value) is error
    if isinstance(caught.value, ReplicaFailed):
        assert caught.value.fault == fault
        assert caught.value.retry_after == (7 if fault == "limited" else 0)
    assert KEY not in caught.value.message


@pytest.mark.parametrize(("status", "seconds"), [(503, 7.0), (500, 0.0)])
async def test_an_overloaded_upstream_says_when_to_come_back(status: int, seconds: float) -> None:
    async with engine_of(ModelServer(completions=sending(response(status, b"", "retry-after: 7")))) as engine:
        with pytest.raises(UpstreamUnavailable) as caught:
            await collect(engine)
    assert (caught.value.fault, caught.value.retry_after) == ("failed", seconds)


async def test_a_refused_request_is_refused_in_the_upstreams_own_words() -> None:
    refusal = response(422, b'{"error":{"message":"top_logprobs must be  positive"}}')
    async with engine_of(ModelServer(completions=sending(refusal))) as engine:
        with pytest.raises(BadRequest, match=r"^top_logprobs must be positive$"):
            await collect(engine)


@pytest.mark.parametrize(
    ("code", "param", "known_code", "known_param"),
    [
        ("content_filter", "prompt", "content_filter", "prompt"),
        ("unsupported_value", "temperature", "unsupported_value", "temperature"),
        (400, None, None, None),
        ("400", ["x"], None, None),
        ("no code", "x" * 500, None, None),
    ],
)
async def test_an_upstreams_code_and_field_are_those_of_the_refusal(
    code: object, param: object, known_code: str | None, known_param: str | None
) -> None:
    body = json.dumps({"error": {"message": "No", "code": code, "param": param}}).encode()
    async with engine_of(ModelServer(completions=sending(response(400, body)))) as engine:
        with pytest.raises(BadRequest) as caught:
            await collect(engine)
    assert (caught.value.code, caught.value.parameter) == (known_code, known_param)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"error": {"message": "too large", "n_prompt_tokens": 9000, "n_ctx": 4096}},
            (9000, 4096),
        ),
        (
            {"message": "This model's maximum context length is 8192 tokens. However, you requested 9500 tokens"},
            (9500, 8192),
        ),
        (
            {
                "object": "error",
                "message": "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
            },
            (5000, 4096),
        ),
        (
            {"message": "This exceeds the model's maximum context length of 4096 tokens. You requested 5000."},
            (5000, 4096),
        ),
        (
            {
                "error": {
                    "message": "Input tokens exceed the configured limit of 400 tokens. Your messages resulted in 500."
                }
            },
            (500, 400),
        ),
        ({"message": f"context length is 4096 {'9' * 5000}"}, (4096, 4096)),
    ],
)
async def test_a_prompt_that_is_too_long_is_known_as_such(body: object, expected: tuple[int, int]) -> None:
    refusal = response(400, json.dumps(body).encode())
    async with engine_of(ModelServer(completions=sending(refusal))) as engine:
        with pytest.raises(ContextOverflow) as caught:
            await collect(engine)
    assert (caught.value.prompt_tokens, caught.value.context_length) == expected


REPORTED: list[tuple[bytes, str]] = [
    (HEAD + event(b'{"error":{"object":"error","message":"no such tool","code":400}}') + DONE, "refused"),
    (HEAD + event(b'{"object":"error","message":"no such tool","code":422}'), "refused"),
    (HEAD + event(b'{"error":{"message":"no such tool","code":"400","type":"BadRequestError"}}'), "refused"),
    (document({"error": {"message": "no such tool", "code": 400}}), "refused"),
    (HEAD + event(b'{"error":{"message":"slow down","code":429}}'), "limited"),
    (HEAD + event(b'{"error":{"message":"out of memory","code":502}}'), "failed"),
    (HEAD + event(b'{"error":{"message":"no such tool","code":"server_error"}}'), "failed"),
    (HEAD + event(b'{"error":"no such tool"}'), "failed"),
]


@pytest.mark.parametrize(("sent", "fault"), REPORTED)
async def test_an_error_behind_status_200_means_what_its_code_says(sent: bytes, fault: str) -> None:
    async with engine_of(ModelServer(completions=sending(sent))) as engine:
        with pytest.raises(BadRequest if fault == "refused" else UpstreamUnavailable) as caught:
            await collect(engine)
    if isinstance(caught.value, UpstreamUnavailable):
        assert caught.value.fault == fault
    else:
        assert caught.value.message == "no such tool"


async def test_an_error_within_the_stream_that_repeats_the_key_is_shown_without_it() -> None:
    sent = HEAD + event(json.dumps({"error": {"message": f"bad header {KEY}", "code": 400}}).encode())
    async with engine_of(ModelServer(completions=sending(sent))) as engine:
        with pytest.raises(BadRequest, match=r"^bad header \[key\]$"):
            await collect(engine)


async def test_a_quota_that_is_used_up_is_no_fault_of_the_request() -> None:
    refusal = response(429, b'{"error":{"message":"Check your plan and billing details"}}', "x-should-retry: false")
    async with engine_of(ModelServer(completions=sending(refusal))) as engine:
        with pytest.raises(UpstreamFailed) as caught:
            await collect(engine)
    assert not isinstance(caught.value, ReplicaFailed)
    assert "billing" not in caught.value.message


@pytest.mark.parametrize("status", [429, 403])
@pytest.mark.parametrize(
    "sent",
    [
        b'{"error":{"message":"Check your plan","type":"insufficient_quota","code":"insufficient_quota"}}',
        b'{"error":{"message":"Check your plan","type":"insufficient_quota","code":null}}',
        b'{"error":{"message":"Not active","code":"billing_not_active"}}',
    ],
)
async def test_an_account_without_credit_is_a_fault_of_this_server_that_another_upstream_does_not_have(
    status: int, sent: bytes
) -> None:
    refusal = response(status, sent, "x-should-retry: false", "retry-after: 7")
    async with engine_of(ModelServer(completions=sending(refusal))) as engine:
        with pytest.raises(UpstreamUnavailable) as caught:
            await collect(engine)
    assert (caught.value.fault, caught.value.retry_after) == ("exhausted", 0)
    assert "plan" not in caught.value.message


async def test_a_payment_that_is_required_is_asked_of_this_server() -> None:
    async with engine_of(ModelServer(completions=sending(response(402, b"Insufficient Balance")))) as engine:
        with pytest.raises(UpstreamUnavailable) as caught:
            await collect(engine)
    assert caught.value.fault == "exhausted"


async def test_a_lost_connection_after_the_end_of_all_choices_loses_only_the_usage() -> None:
    async with engine_of(ModelServer(completions=sending(HEAD, text_chunk("Hi"), FINISH))) as engine:
        assert (await collect(engine))[-1] == Usage(HELLO_TOKENS, 1, 0, source="estimated")


@pytest.mark.parametrize("rubbish", [event(b"no json"), event(b'{"error":{"message":"late"}}')])
async def test_what_follows_the_end_of_all_choices_breaks_nothing(rubbish: bytes) -> None:
    async with engine_of(ModelServer(completions=sending(HEAD, text_chunk("Hi"), FINISH, USAGE, rubbish))) as engine:
        assert (await collect(engine))[-1] == Usage(7, 2, 0, source="upstream")


@pytest.mark.parametrize("blank", [b"data\n\n", b"data: \n\n", b"data:   \r\n\r\n", b"event: ping\ndata:\n\n"])
async def test_an_event_without_data_keeps_a_stream_alive(blank: bytes) -> None:
    parts = (HEAD, chunk(blank), text_chunk("Hi"), chunk(blank), FINISH, USAGE, event(b"[DONE] "), LAST_CHUNK)
    async with engine_of(ModelServer(completions=sending(*parts))) as engine:
        events = await collect(engine)
    assert [type(each) for each in events] == [Started, Delta, Finished, Usage]


async def test_a_connection_that_stays_open_after_the_last_event_is_not_waited_for() -> None:
    async def answer(request: ScriptedRequest) -> None:
        await hang_after(request, HEAD, text_chunk("Hi") + FINISH, USAGE + DONE)

    patient = UpstreamTimeouts(between_tokens=10 * TEST_TIMEOUT_SECONDS, first_token=10 * TEST_TIMEOUT_SECONDS)
    async with engine_of(ModelServer(completions=answer), timeouts=patient) as engine:
        assert (await collect(engine))[-1] == Usage(7, 2, 0, source="upstream")


async def test_an_adapter_that_was_unloaded_is_no_fault_of_its_upstream() -> None:
    models = {"data": [{"id": "m", "owned_by": "vllm"}, {"id": "gone", "owned_by": "vllm", "parent": "m"}]}
    async with engine_of(ModelServer(models, completions=sending(response(404)))) as engine:
        await engine.find_out()
        assert [each.name for each in engine.adapters.list_adapters()] == ["m:gone"]
        with pytest.raises(ModelNotFound):
            await collect(engine, msgspec.structs.replace(REQUEST, adapter="m:gone"))
        assert not engine.adapters.list_adapters()


@pytest.mark.parametrize("is_listed", [True, False])
async def test_a_model_that_only_chats_is_no_fault_of_its_upstream(*, is_listed: bool) -> None:
    models = {"data": [{"id": "m" if is_listed else "other"}]}
    request = GenerationRequest(model="m", prompt=TextPrompt("Once"))
    async with engine_of(ModelServer(models, completions=sending(response(404))), kind="openai") as engine:
        await engine.probe()
        with pytest.raises(BadRequest if is_listed else UpstreamUnavailable) as caught:
            await collect(engine, request)
        with pytest.raises(UpstreamUnavailable):
            await collect(engine)
    if is_listed:
        assert caught.value.message == "The model 'm' does not support text completions"


def unsupported(parameter: str, code: str = "unsupported_parameter") -> bytes:
    message = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    return response(400, json.dumps({"error": {"message": message, "param": parameter, "code": code}}).encode())


async def test_a_model_that_takes_the_other_limit_of_tokens_is_asked_again_with_it_and_remembered() -> None:
    async def answer(request: ScriptedRequest) -> object:
        refusal = unsupported("max_tokens") if "max_tokens" in json.loads(request.body) else b""
        return await sending(refusal or HEAD + text_chunk("Hi") + FINISH + USAGE + DONE + LAST_CHUNK)(request)

    request = msgspec.structs.replace(REQUEST, sampling=SamplingParams(max_tokens=5))
    server = ModelServer(completions=answer)
    async with engine_of(server, kind="openai") as engine:
        for _ in range(2):
            assert (await collect(engine, request))[-1] == Usage(7, 2, 0, source="upstream")
            await engine.find_out()
    limits = [(body.get("max_tokens"), body.get("max_completion_tokens")) for body in server.bodies]
    assert limits == [(5, None), (None, 5), (None, 5)]


@pytest.mark.parametrize("refusal", [unsupported("messages"), unsupported("max_tokens", "integer_above_max_value")])
async def test_no_words_of_a_client_change_the_limit_of_tokens(refusal: bytes) -> None:
    request = msgspec.structs.replace(REQUEST, sampling=SamplingParams(max_tokens=5))
    server = ModelServer(completions=sending(refusal))
    async with engine_of(server, kind="openai") as engine:
        for _ in range(2):
            with pytest.raises(BadRequest):
                await collect(engine, request)
    assert [body["max_tokens"] for body in server.bodies] == [5, 5]
