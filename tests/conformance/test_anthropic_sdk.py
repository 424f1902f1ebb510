"""Anthropic's own client library, with only the base address changed, and requests as Claude Code sends them.

The tests import the library: each process of a run collects this module, and one needs the second that it takes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest

from dragoman.core.errors import EngineFailed, Overloaded
from dragoman.core.events import Delta, Event, Finished, ReasoningDelta, Started, ToolCallDelta, Usage
from dragoman.core.request import ChatPrompt, GenerationRequest
from tests.support.apps import echo_app
from tests.support.dialects import claude_code
from tests.support.dialects.anthropic_streams import message_of
from tests.support.dialects.scripted_engine import ScriptedEngine
from tests.support.server import RunningServer
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from anthropic import Anthropic, AsyncAnthropic
    from anthropic.types import Message, MessageParam, ToolParam

MODEL = "smollm2-135m-instruct"
QUESTION: list[MessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: ToolParam = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALLS: list[Event] = [
    Started(9, 4),
    ReasoningDelta(0, "They ask for the weather", [1]),
    Delta(0, "I look.", [2]),
    ToolCallDelta(index=0, call_index=0, arguments='{"city":', token_ids=[4], id="call_0", name="get_weather"),
    ToolCallDelta(index=0, call_index=0, arguments='"Oslo"}', token_ids=[5]),
    ToolCallDelta(index=0, call_index=1, arguments='{"city":"Bergen"}', token_ids=[6], id="call_1", name="get_weather"),
    Finished(0, "tool_calls"),
    Usage(9, 6, 4, 1),
]
ANSWER: list[Event] = [Started(30, 9), Delta(0, "Rain in both.", [1]), Finished(0, "stop"), Usage(30, 1, 9)]


class CallingEngine(ScriptedEngine):
    """Calls tools until it has their results."""

    def __init__(self) -> None:
        super().__init__(CALLS)
        self.prompts: list[ChatPrompt] = []

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Event]:  # type: ignore[override]
        assert isinstance(request.prompt, ChatPrompt)
        self.prompts.append(request.prompt)
        self._events = ANSWER if request.prompt.messages[-1].role == "tool" else CALLS
        async for event in super().generate(request):
            yield event


async def client_before(engine: ScriptedEngine, **options: Any) -> AsyncIterator[AsyncAnthropic]:
    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

    transport = httpx2.ASGITransport(echo_app(engine=engine))
    async with DefaultAsyncHttpxClient(transport=transport) as http:
        yield AsyncAnthropic(base_url="http://server", api_key="sk-none", http_client=http, max_retries=0, **options)


async def answered(client: AsyncAnthropic, stream: bool, messages: list[MessageParam]) -> Message:
    if not stream:
        return await client.messages.create(model="echo", max_tokens=99, messages=messages, tools=[WEATHER])
    async with client.messages.stream(model="echo", max_tokens=99, messages=messages, tools=[WEATHER]) as events:
        return await events.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_loop_of_tools_ends_with_an_answer(stream: bool) -> None:
    engine = CallingEngine()
    async for client in client_before(engine):
        messages: list[MessageParam] = [{"role": "user", "content": "What is the weather in Oslo and Bergen?"}]
        called = await answered(client, stream, messages)
        assert [block.type for block in called.content] == ["thinking", "text", "tool_use", "tool_use"]
        assert called.stop_reason == "tool_use"
        usage = called.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (5, 4, 6)
        assert usage.output_tokens_details is not None
        assert usage.output_tokens_details.thinking_tokens == 1
        uses = [block for block in called.content if block.type == "tool_use"]
        assert [use.input for use in uses] == [{"city": "Oslo"}, {"city": "Bergen"}]
        messages += [
            called.to_param(),
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "Rain"} for use in uses],
            },
        ]
        final = await answered(client, stream, messages)
        assert [block.type for block in final.content] == ["text"]
        assert final.stop_reason == "end_turn"
    _, answer, *results = engine.prompts[-1].messages
    assert (answer.reasoning, answer.text) == ("They ask for the weather", "I look.")
    assert (
        [call.id for call in answer.tool_calls] == [result.tool_call_id for result in results] == ["call_0", "call_1"]
    )


async def test_errors_are_raised_as_the_librarys_own() -> None:
    import anthropic

    async for client in client_before(ScriptedEngine([], Overloaded("busy", 7))):
        with pytest.raises(anthropic.InternalServerError) as raised:
            await client.messages.create(model="echo", max_tokens=9, messages=QUESTION)
        assert (raised.value.status_code, raised.value.response.headers["retry-after"]) == (529, "7")
        assert raised.value.request_id
        with pytest.raises(anthropic.NotFoundError, match="model: none"):
            await client.messages.create(model="none", max_tokens=9, messages=QUESTION)
        with pytest.raises(anthropic.NotFoundError, match="not served"):
            await client.messages.batches.list()


async def test_an_error_in_a_stream_is_raised() -> None:
    import anthropic

    async for client in client_before(ScriptedEngine(ANSWER[:2], EngineFailed("secret"))):
        with pytest.raises(anthropic.APIStatusError, match="Internal server error"):
            async with client.messages.stream(model="echo", max_tokens=9, messages=QUESTION) as events:
                await events.get_final_message()


async def test_models_are_listed_and_retrieved() -> None:
    async for client in client_before(ScriptedEngine([])):
        infos = [info async for info in client.models.list(limit=1)]
        assert [info.id for info in infos] == ["echo", "acme/parrot"], "all pages are read"
        assert (await client.models.retrieve("acme/parrot")).display_name == "acme/parrot"


@pytest.fixture(scope="module")
def model(steady_server: RunningServer) -> Iterator[Anthropic]:
    """A client of the bundled model: only a real one shows that streams, counts and limits agree with it."""
    from anthropic import Anthropic

    with Anthropic(
        base_url=steady_server.url, api_key="sk-none", timeout=TEST_TIMEOUT_SECONDS, max_retries=0
    ) as client:
        yield client


@pytest.mark.parametrize("stop", [[], ["Paris"]])
def test_a_streamed_answer_of_a_model_equals_a_whole_one(model: Anthropic, stop: list[str]) -> None:
    options: Any = {
        "model": MODEL,
        "max_tokens": 24,
        "messages": QUESTION,
        "stop_sequences": stop,
        # The parameter is gone from the library's types, and older clients send it.
        "extra_body": {"temperature": 0},
    }
    whole = model.messages.create(**options)
    with model.messages.stream(**options) as events:
        streamed = events.get_final_message()
    assert [block.to_dict() for block in streamed.content] == [block.to_dict() for block in whole.content]
    assert (streamed.stop_reason, streamed.stop_sequence) == (whole.stop_reason, whole.stop_sequence)
    assert whole.stop_sequence == (stop[0] if stop else None)
    assert ("Paris" in whole.to_json()) is True
    assert streamed.usage.output_tokens == whole.usage.output_tokens


def test_a_begun_answer_is_continued_by_a_model(model: Anthropic) -> None:
    begun: list[MessageParam] = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    answer = model.messages.create(model=MODEL, max_tokens=4, messages=begun, extra_body={"temperature": 0})
    [block] = answer.content
    assert block.type == "text"
    assert block.text.startswith(" Paris")


def test_tokens_are_counted_as_a_model_reports_them(model: Anthropic) -> None:
    options: Any = {"model": MODEL, "messages": QUESTION, "system": "Be brief.", "tools": [WEATHER]}
    counted = model.messages.count_tokens(**options)
    usage = model.messages.create(max_tokens=1, **options).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_request_of_claude_code_is_answered_in_full_by_a_model(model_server: RunningServer) -> None:
    messages: list[Any] = claude_code.first_turn("What is the capital of France?")
    with httpx.Client(base_url=model_server.url, timeout=TEST_TIMEOUT_SECONDS, headers=claude_code.HEADERS) as client:
        assert client.head("/").status_code < 400, "the probe finds a server, or the console"
        for call_id in ("toolu_01", "toolu_02"):
            sent = claude_code.request(
                messages, attribution=call_id, model=MODEL, stream=True, temperature=0, stop_sequences=["\n", "."]
            )
            response = client.post("/v1/messages?beta=true", json=sent)
            assert response.status_code == 200, response.text
            answer = message_of(response.text)
            assert answer["content"]
            assert answer["stop_reason"] in ("end_turn", "stop_sequence", "tool_use")
            usage = answer["usage"]
            if call_id == "toolu_02":
                assert usage["cache_read_input_tokens"] > 0.9 * usage["input_tokens"], "the first prompt is shared"
            call = {"type": "tool_use", "id": call_id, "name": "Read", "input": {"file_path": "a.txt"}}
            screenshot = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
            result = [{"type": "text", "text": "Paris"}, screenshot]
            messages += [
                {
                    "role": "assistant",
                    "content": [block for block in answer["content"] if block["type"] == "text"] + [call],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call_id, "content": result}]},
                {"role": "system", "content": "Remember to be brief."},
            ]
