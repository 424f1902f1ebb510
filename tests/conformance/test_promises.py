"""What every dialect promises, asked of each in its own words."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from dragoman.core.errors import BadRequest, DragomanError, EngineFailed, ModelLoading
from dragoman.core.events import Delta, Event
from dragoman.core.request import GenerationRequest
from dragoman.engines.echo import EchoEngine
from tests.support.apps import KEY, LARGEST_BODY, client_of, echo_app
from tests.support.patience import PATIENCE_SECONDS
from tests.support.server import RunningServer
from tests.support.speakers import SPEAKERS, Said, Speaker

REAL_MODEL = "smollm2-135m-instruct"

MANY = 2000
"""Looks at the server until what has to happen soon must have happened."""

EMOJI = "día 🦜🇫🇷 naïve 漢字"


@pytest.fixture(params=SPEAKERS, ids=lambda speaker: speaker.name)
def speaker(request: pytest.FixtureRequest) -> Speaker:
    speaker: Speaker = request.param
    return speaker


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(echo_app()) as client:
        yield client


async def ask(client: httpx.AsyncClient, speaker: Speaker, text: str, model: str = "echo", **options: Any) -> Said:
    response = await client.post(speaker.path(model), json=speaker.body(model, text, **options))
    assert response.status_code == 200, response.text
    return speaker.read_stream(response.text) if options.get("stream") else speaker.read(response.json())


async def status(client: httpx.AsyncClient, speaker: Speaker, body: dict[str, Any], model: str = "echo") -> int:
    response = await client.post(speaker.path(model), json=body)
    assert speaker.is_error(response.json()), response.text
    return response.status_code


async def test_an_answer_and_its_stream_are_the_same_and_counted_alike(
    client: httpx.AsyncClient, speaker: Speaker
) -> None:
    whole = await ask(client, speaker, "Hello", temperature=0)
    assert whole == Said("Hello", "stop", len("user: Hello"), len("Hello") + 1)
    assert await ask(client, speaker, "Hello", temperature=0, stream=True) == whole


@pytest.mark.parametrize("stream", [False, True])
async def test_characters_of_several_tokens_arrive_whole(
    client: httpx.AsyncClient, speaker: Speaker, stream: bool
) -> None:
    assert (await ask(client, speaker, EMOJI, stream=stream)).text == EMOJI


@pytest.mark.parametrize("stream", [False, True])
async def test_max_tokens_ends_an_answer_with_length(client: httpx.AsyncClient, speaker: Speaker, stream: bool) -> None:
    said = await ask(client, speaker, "Hello", max_tokens=3, stream=stream)
    assert (said.text, said.reason, said.completion_tokens) == ("Hel", "length", 3)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_an_answer_and_is_not_part_of_it(
    client: httpx.AsyncClient, speaker: Speaker, stream: bool
) -> None:
    if not speaker.has_stop:
        pytest.skip("this dialect has no stop strings")
    said = await ask(client, speaker, "one two three", stop=["two"], stream=stream)
    assert (said.text, said.reason) == ("one ", "stop")


async def test_the_prompt_tokens_told_are_those_of_the_token_counter(
    client: httpx.AsyncClient, speaker: Speaker
) -> None:
    question = {"model": "echo", "messages": [{"role": "user", "content": EMOJI}]}
    counted = (await client.post("/utils/token_counter", json=question)).json()
    assert (await ask(client, speaker, EMOJI, max_tokens=1)).prompt_tokens == counted["total_tokens"]


async def test_errors_come_in_the_dialects_envelope_with_its_statuses(
    client: httpx.AsyncClient, speaker: Speaker
) -> None:
    hello = speaker.body("echo", "Hello")
    assert await status(client, speaker, speaker.body("unheard-of", "Hi"), "unheard-of") == speaker.unknown_model_status
    assert await status(client, speaker, hello | {"top_p": 1.5}) == speaker.out_of_range_status
    assert await status(client, speaker, {"model": "echo"}) == speaker.missing_status
    assert await status(client, speaker, speaker.body("echo", "x" * 9000)) == speaker.overflow_status
    assert await status(client, speaker, hello | {"x": "y" * LARGEST_BODY}) == 413
    if not speaker.hottest_is_clamped:
        assert await status(client, speaker, hello | {"temperature": 2.5}) == speaker.out_of_range_status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"temperature": NaN}', b"[" * 3000])
async def test_what_is_no_json_object_is_answered_with_400(
    client: httpx.AsyncClient, speaker: Speaker, body: bytes
) -> None:
    response = await client.post(speaker.path("echo"), content=body)
    assert response.status_code == 400
    assert speaker.is_error(response.json())


async def test_who_has_no_key_is_told_so_whatever_the_body_is(speaker: Speaker) -> None:
    async with client_of(echo_app(keys=[KEY])) as client:
        response = await client.post(speaker.path("echo"), content=b"{")
        assert response.status_code == 401
        assert speaker.is_error(response.json())
        headers = {"authorization": f"Bearer {KEY}"}
        admitted = await client.post(speaker.path("echo"), json=speaker.body("echo", "Hi"), headers=headers)
        assert speaker.read(admitted.json()).text == "Hi"


async def test_every_answer_has_a_request_id(client: httpx.AsyncClient, speaker: Speaker) -> None:
    for body in (speaker.body("echo", "Hi"), {}):
        response = await client.post(speaker.path("echo"), json=body)
        assert len(response.headers["x-request-id"]) == 32


class DyingEngine(EchoEngine):
    """Says one letter, unless it is dead before, and dies."""

    def __init__(self, *, speaks: bool) -> None:
        super().__init__()
        self._speaks = speaks

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        if self._speaks:
            yield Delta(0, "A", [65])
        raise EngineFailed("The engine stopped")


class RefusingEngine(EchoEngine):
    """Has nothing but an error for anybody."""

    _events: Sequence[Event] = ()

    def __init__(self, error: DragomanError) -> None:
        super().__init__()
        self._error = error

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        for event in self._events:
            yield event
        raise self._error


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_engine_refuses_is_told_of_the_field_that_the_client_sent(
    speaker: Speaker, stream: bool
) -> None:
    async with client_of(echo_app(engine=RefusingEngine(BadRequest("These messages are odd", "messages")))) as client:
        response = await client.post(speaker.path("echo"), json=speaker.body("echo", "Hi", stream=stream))
    assert response.status_code == speaker.out_of_range_status
    assert speaker.is_error(response.json())
    assert "These messages are odd" in response.text
    assert f'"{"chat_history" if speaker.name == "scale" else "messages"}"' in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_who_comes_too_early_is_told_when_to_come_back(speaker: Speaker, stream: bool) -> None:
    async with client_of(echo_app(engine=RefusingEngine(ModelLoading("The model is being loaded", 7)))) as client:
        response = await client.post(speaker.path("echo"), json=speaker.body("echo", "Hi", stream=stream))
        assert response.status_code == (429 if speaker.name == "infermatic" else 503)
        assert response.headers["retry-after"] == "7"
        assert speaker.is_error(response.json())


async def test_an_engine_that_dies_before_the_first_token_is_an_ordinary_error(speaker: Speaker) -> None:
    async with client_of(echo_app(engine=DyingEngine(speaks=False))) as client:
        for stream in (False, True):
            body = speaker.body("echo", "Hi", stream=stream)
            assert await status(client, speaker, body) == 500


async def test_an_engine_that_dies_within_a_stream_ends_it_with_an_error_and_no_terminator(speaker: Speaker) -> None:
    async with client_of(echo_app(engine=DyingEngine(speaks=True))) as client:
        body = speaker.body("echo", "Hi", stream=True)
        response = await client.post(speaker.path("echo"), json=body)
        assert response.status_code == 200
        assert speaker.is_broken_off(response.text)
        assert "[DONE]" not in response.text
        assert await status(client, speaker, speaker.body("echo", "Hi")) == 500


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_work(slow_server: RunningServer, speaker: Speaker, stream: bool) -> None:
    with httpx.Client(base_url=slow_server.url) as client:
        body = speaker.body("echo", "x" * 500, stream=stream)
        if stream:
            with client.stream("POST", speaker.path("echo"), json=body) as response:
                next(response.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(speaker.path("echo"), json=body, timeout=0.3)
        assert any(slow_server.running_sequences("echo") == 0 for _ in range(MANY))


async def test_the_real_model_says_the_same_streamed_and_not_and_is_counted_right(
    steady_server: RunningServer, speaker: Speaker
) -> None:
    async with httpx.AsyncClient(base_url=steady_server.url, timeout=PATIENCE_SECONDS) as client:
        question = "What is the capital of France?"
        whole = await ask(client, speaker, question, REAL_MODEL, temperature=0, max_tokens=24)
        assert "Paris" in whole.text
        assert await ask(client, speaker, question, REAL_MODEL, temperature=0, max_tokens=24, stream=True) == whole
        asked = {"model": REAL_MODEL, "messages": [{"role": "user", "content": question}]}
        counted = (await client.post("/utils/token_counter", json=asked)).json()
        assert whole.prompt_tokens == counted["total_tokens"]
