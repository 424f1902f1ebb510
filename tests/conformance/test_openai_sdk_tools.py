"""Tool calls, log-probabilities and reasoning as OpenAI's library reads them, in every dialect it supports."""

from collections.abc import AsyncIterator, Sequence

import httpx2
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from dragoman.core.events import Delta, Event, Finished, ReasoningDelta, TokenLogprobs, ToolCallDelta, TopLogprob, Usage
from tests.support.apps import echo_app
from tests.support.dialects.scripted_engine import ScriptedEngine

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Oslo?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
TOOL_CALL_EVENTS: list[Event] = [
    ReasoningDelta(0, "They ask for the weather", [1]),
    Delta(0, "I look.", [2]),
    ToolCallDelta(index=0, call_index=0, arguments="", token_ids=[3], id="call_0", name="get_weather"),
    ToolCallDelta(index=0, call_index=0, arguments='{"city":', token_ids=[4]),
    ToolCallDelta(index=0, call_index=0, arguments='"Oslo"}', token_ids=[5]),
    ToolCallDelta(index=0, call_index=1, arguments='{"city":"Bergen"}', token_ids=[6], id="call_1", name="get_weather"),
    Finished(0, "tool_calls"),
    Usage(9, 6, 0, 1),
]
LOGPROB_EVENTS: list[Event] = [
    Delta(0, "é", [1, 2], [TokenLogprobs(1, b"\xc3", -0.5, []), TokenLogprobs(2, b"\xa9", -0.25, [])]),
    Delta(0, "t", [3], [TokenLogprobs(3, b"t", -1.5, [TopLogprob(4, b"a", -0.5)])]),
    Finished(0, "stop"),
    Usage(9, 3, 0),
]


async def client_before(events: Sequence[Event], path: str) -> AsyncIterator[AsyncOpenAI]:
    transport = httpx2.ASGITransport(echo_app(engine=ScriptedEngine(events)))
    async with DefaultAsyncHttpxClient(transport=transport) as http:
        yield AsyncOpenAI(base_url=f"http://server/{path}", api_key="sk-none-needed", http_client=http, max_retries=0)


@pytest.fixture(params=["v1", "openai/v1", "api/v1", "empower/api/v1"])
async def tool_client(request: pytest.FixtureRequest) -> AsyncIterator[AsyncOpenAI]:
    """Before infermatic, openai, arcee and empower, in turn, and a model that calls tools."""
    async for client in client_before(TOOL_CALL_EVENTS, request.param):
        yield client


@pytest.fixture(params=["v1", "api/v1"])
async def logprobs_client(request: pytest.FixtureRequest) -> AsyncIterator[AsyncOpenAI]:
    """A client of infermatic, then of arcee, with a model that returns log-probabilities."""
    async for client in client_before(LOGPROB_EVENTS, request.param):
        yield client


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls_are_read_whole_and_put_together_from_a_stream(tool_client: AsyncOpenAI, stream: bool) -> None:
    if stream:
        async with tool_client.chat.completions.stream(model="echo", messages=QUESTION, tools=[WEATHER]) as chunks:
            [choice] = (await chunks.get_final_completion()).choices
    else:
        answer = await tool_client.chat.completions.create(model="echo", messages=QUESTION, tools=[WEATHER])
        [choice] = answer.choices  # type: ignore[assignment]
    assert (choice.message.content, choice.finish_reason) == ("I look.", "tool_calls")
    calls = [call for call in choice.message.tool_calls or [] if call.type == "function"]
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_0", "get_weather", '{"city":"Oslo"}'),
        ("call_1", "get_weather", '{"city":"Bergen"}'),
    ]


async def test_the_answer_with_its_calls_and_their_results_can_be_sent_back(tool_client: AsyncOpenAI) -> None:
    answer = await tool_client.chat.completions.create(model="echo", messages=QUESTION, tools=[WEATHER])
    reply = answer.choices[0].message
    results: list[ChatCompletionMessageParam] = [
        {"role": "tool", "tool_call_id": call.id, "content": "Rain"} for call in reply.tool_calls or []
    ]
    turns = [*QUESTION, reply.model_dump(exclude_none=True), *results]
    again = await tool_client.chat.completions.create(model="echo", messages=turns, tools=[WEATHER])  # type: ignore[arg-type]
    assert again.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("path", ["v1", "openai/v1", "api/v1", "empower/api/v1"])
@pytest.mark.parametrize("reasoning", [[], [ReasoningDelta(0, "They ask", [1])]], ids=["empty", "reasoning"])
async def test_a_streamed_answer_without_text_can_be_sent_back(path: str, reasoning: list[Event]) -> None:
    async for client in client_before([*reasoning, Finished(0, "stop"), Usage(9, len(reasoning), 0)], path):
        async with client.chat.completions.stream(model="echo", messages=QUESTION) as chunks:
            [choice] = (await chunks.get_final_completion()).choices
        assert (choice.message.role, choice.message.content) == ("assistant", "")
        turns = [*QUESTION, choice.message.model_dump(exclude_none=True), *QUESTION]
        again = await client.chat.completions.create(model="echo", messages=turns)  # type: ignore[arg-type]
        assert again.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_are_read(logprobs_client: AsyncOpenAI, stream: bool) -> None:
    if stream:
        async with logprobs_client.chat.completions.stream(
            model="echo", messages=QUESTION, logprobs=True, top_logprobs=1
        ) as chunks:
            [choice] = (await chunks.get_final_completion()).choices
    else:
        answer = await logprobs_client.chat.completions.create(
            model="echo", messages=QUESTION, logprobs=True, top_logprobs=1
        )
        [choice] = answer.choices  # type: ignore[assignment]
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert [(token.token, token.bytes, token.logprob) for token in tokens] == [
        ("\ufffd", [0xC3], -0.5),
        ("\ufffd", [0xA9], -0.25),
        ("t", [0x74], -1.5),
    ]
    # Infermatic's lists have the sampled token too, as vLLM's.
    sampled = [("t", -1.5)] if logprobs_client.base_url.path == "/v1/" else []
    assert [(top.token, top.logprob) for top in tokens[-1].top_logprobs] == [("a", -0.5), *sampled]
