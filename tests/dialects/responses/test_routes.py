"""The Responses API before OpenAI's own client, and the acceptance tests of Open Responses."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import FunctionToolParam, ResponseInputParam
from pydantic import BaseModel

from dragoman.core.capabilities import ALL_CAPABILITIES
from dragoman.core.events import Delta, Event, Finished, ReasoningDelta, ToolCallDelta, Usage
from dragoman.dialects.responses.reasoning import ReasoningCipher
from tests.support.apps import REASONING_KEY, client_of, echo_app
from tests.support.dialects.openai_clients import openai_client
from tests.support.dialects.response_reader import check_response, parse_stream, read_events
from tests.support.dialects.scripted_engine import ScriptedEngine, failing_engine

WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
CALL: list[Event] = [
    ReasoningDelta(0, "They ask for the weather.", [1]),
    ToolCallDelta(index=0, call_index=0, arguments="", token_ids=[3], id="call_0", name="get_weather"),
    ToolCallDelta(index=0, call_index=0, arguments='{"city": "Oslo"}', token_ids=[4]),
    Finished(0, "tool_calls"),
    Usage(9, 3, 2, 1),
]


@pytest.fixture(params=["v1", "prefix", "host", "openai host"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client before each of the places where the dialect answers."""
    app = echo_app(hosts={"r.example": "responses", "o.example": "openai"})
    path, host = {
        "v1": ("/v1", "server"),
        "prefix": ("/openai/v1", "server"),
        "host": ("/v1", "r.example"),
        "openai host": ("/v1", "o.example"),
    }[request.param]
    async for client in openai_client(app, path, host):
        yield client


@pytest.fixture
async def calling_client() -> AsyncIterator[AsyncOpenAI]:
    """A client of a model that calls a tool."""
    async for client in openai_client(echo_app(engine=ScriptedEngine(CALL))):
        yield client


async def test_a_response_is_created_and_streamed_alike(client: AsyncOpenAI) -> None:
    whole = await client.responses.create(model="echo", input="Hello", instructions="Be brief")
    assert (whole.output_text, whole.status, whole.instructions) == ("Hello", "completed", "Be brief")
    assert whole.usage is not None
    async with client.responses.stream(model="echo", input="Hello", instructions="Be brief") as stream:
        kinds = [event.type async for event in stream]
        streamed = await stream.get_final_response()
    assert (streamed.output_text, streamed.usage) == (whole.output_text, whole.usage)
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"


async def test_a_call_is_read_whole_and_put_together_from_a_stream(calling_client: AsyncOpenAI) -> None:
    whole = await calling_client.responses.create(model="echo", input="Weather?", tools=[WEATHER])
    async with calling_client.responses.stream(model="echo", input="Weather?", tools=[WEATHER]) as stream:
        streamed = await stream.get_final_response()
    for response in (whole, streamed):
        reasoning, call = response.output
        assert (reasoning.type, call.type) == ("reasoning", "function_call")
        assert call.type == "function_call"
        assert (call.call_id, call.name, call.arguments) == ("call_0", "get_weather", '{"city": "Oslo"}')


async def test_a_call_its_result_and_reasoning_can_be_sent_back(calling_client: AsyncOpenAI) -> None:
    first = await calling_client.responses.create(model="echo", input="Weather?", tools=[WEATHER])
    turns: ResponseInputParam = [{"role": "user", "content": "Weather?"}]
    turns += [item.model_dump(exclude_none=True) for item in first.output]  # type: ignore[misc]
    turns.append({"type": "function_call_output", "call_id": "call_0", "output": "Rain"})
    again = await calling_client.responses.create(model="echo", input=turns)
    assert again.status == "completed"


async def test_reasoning_is_kept_by_a_client_and_understood_again(calling_client: AsyncOpenAI) -> None:
    first = await calling_client.responses.create(
        model="echo", input="Weather?", store=False, include=["reasoning.encrypted_content"]
    )
    reasoning = first.output[0]
    assert reasoning.type == "reasoning"
    assert reasoning.encrypted_content is not None
    assert ReasoningCipher(REASONING_KEY).unseal(reasoning.encrypted_content) == "They ask for the weather."
    assert ReasoningCipher(bytes(64)).unseal(reasoning.encrypted_content) is None


async def test_an_answer_is_parsed_by_its_schema() -> None:
    class City(BaseModel):
        name: str

    class BoundEngine(ScriptedEngine):
        capabilities = ALL_CAPABILITIES

    events: list[Event] = [Delta(0, '{"name": "Oslo"}', [1]), Finished(0, "stop"), Usage(3, 1, 0)]
    async for client in openai_client(echo_app(engine=BoundEngine(events))):
        parsed = await client.responses.parse(model="echo", input="Capital?", text_format=City)
        assert parsed.output_parsed == City(name="Oslo")


async def test_the_clients_errors_are_openais(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.responses.create(model="gpt-9", input="Hi")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="echo", input="Hi", temperature=3)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as missing:
        await client.responses.create(model="echo", input="Hi", previous_response_id="resp_gone")
    assert missing.value.code == "previous_response_not_found"


async def test_a_failure_in_a_stream_is_raised_by_the_client() -> None:
    async for client in openai_client(echo_app(engine=failing_engine(2))):
        with pytest.raises(openai.APIError):
            async for _ in await client.responses.create(model="echo", input="Hi", stream=True):
                pass


async def test_input_tokens_are_counted_as_they_would_be_charged(client: AsyncOpenAI) -> None:
    counted = await client.responses.input_tokens.count(model="echo", input="Hello", instructions="Be brief")
    answered = await client.responses.create(model="echo", input="Hello", instructions="Be brief")
    assert answered.usage is not None
    assert counted.input_tokens == answered.usage.input_tokens


async def test_what_is_not_offered_is_not_found() -> None:
    async with client_of(echo_app()) as client:
        assert (await client.post("/v1/responses/compact", json={})).status_code in (404, 405)
        assert (await client.post("/v1/conversations", json={})).status_code == 404
        refused = await client.post("/v1/responses", json={"model": "echo", "input": "Hi", "conversation": "conv_1"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "conversation")


async def test_hosted_tools_and_unknown_items_are_skipped_with_a_header() -> None:
    body = {
        "model": "echo",
        "tools": [{"type": "web_search"}, {"type": "local_shell"}],
        "tool_choice": {"type": "web_search"},
        "input": [{"type": "web_search_call", "id": "ws_1"}, {"role": "user", "content": "Hello"}],
    }
    async with client_of(echo_app()) as client:
        response = await client.post("/v1/responses", json=body)
    assert response.status_code == 200
    assert response.headers["x-dragoman-skipped"] == "web_search, local_shell, web_search_call"
    assert (response.json()["tools"], response.json()["tool_choice"]) == ([], "auto")


async def test_an_input_that_is_too_long_is_refused_or_loses_its_oldest_items() -> None:
    items = [{"role": "user", "content": letter * 4000} for letter in "abc"]
    async with client_of(echo_app()) as client:
        body = {"model": "echo", "input": items, "instructions": "Be brief"}
        refused = await client.post("/v1/responses", json=body)
        shortened = await client.post("/v1/responses", json=body | {"truncation": "auto", "max_output_tokens": 16})
    assert refused.status_code == 400
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == ("context_length_exceeded", "input")
    answer = shortened.json()
    assert (answer["truncation"], answer["output"][0]["content"][0]["text"]) == ("auto", "c" * 16)
    assert answer["usage"]["input_tokens"] > len("Be brief") + 4000


@pytest.mark.parametrize("items", [[], "", None])
async def test_an_empty_input_is_answered_if_it_is_there(items: Any) -> None:
    async with client_of(echo_app()) as client:
        response = await client.post("/v1/responses", json={"model": "echo", "input": items, "max_output_tokens": 1})
    assert response.status_code == (400 if items is None else 200)


USER: dict[str, Any] = {"type": "message", "role": "user", "content": "Say hello in exactly 3 words."}
ACCEPTANCE_TESTS: dict[str, dict[str, Any]] = {
    "basic-response": {"input": [USER]},
    "system-prompt": {"input": [{"type": "message", "role": "system", "content": "Talk like a pirate."}, USER]},
    "multi-turn": {
        "input": [
            {"type": "message", "role": "user", "content": "My name is Alice."},
            {"type": "message", "role": "assistant", "content": "Hello Alice!"},
            USER,
        ]
    },
    "tool-calling": {"input": [USER], "tools": [WEATHER]},
}
"""The bodies of the acceptance tests of Open Responses."""


@pytest.mark.parametrize("name", ACCEPTANCE_TESTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_acceptance_tests_of_open_responses_pass(name: str, stream: bool) -> None:
    engine = ScriptedEngine(CALL) if name == "tool-calling" else None
    async with client_of(echo_app(engine=engine)) as client:
        response = await client.post(
            "/v1/responses", json={"model": "echo", "stream": stream, **ACCEPTANCE_TESTS[name]}
        )
    answer = read_events(parse_stream(response.text)) if stream else response.json()
    check_response(answer)
    assert answer["status"] == "completed"
    assert answer["output"]
    if name == "tool-calling":
        assert "function_call" in [item["type"] for item in answer["output"]]


async def test_each_event_leaves_in_one_write() -> None:
    bodies: list[bytes] = []
    app = echo_app()

    async def recording(scope: Any, receive: Any, send: Any) -> None:
        async def record(message: Any) -> None:
            if message["type"] == "http.response.body":
                bodies.append(message["body"])
            await send(message)

        await app(scope, receive, record)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(recording), base_url="http://server") as client:
        await client.post("/v1/responses", json={"model": "echo", "input": "Hello", "stream": True})
    assert all(body.endswith(b"\n\n") for body in bodies)
    assert all(json.loads(event.data)["type"] == event.name for event in parse_stream(b"".join(bodies).decode())[:-1])
