import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest, ContextOverflow
from dragoman.core.events import (
    AnyDelta,
    ChoiceEvent,
    Delta,
    Event,
    Finished,
    PromptTokens,
    Started,
    TokenLogprobs,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    Message,
    Prompt,
    PromptTruncation,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolCall,
    ToolOptions,
)
from dragoman.engines.echo import EchoEngine
from dragoman.engines.echo.engine import END
from dragoman.output.markup import ToolFormatName
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import write_calls


async def events(
    prompt: Prompt, sampling: SamplingParams | None = None, *, echo: bool = False, n: int = 1
) -> list[Event]:
    request = GenerationRequest(model="echo", prompt=prompt, sampling=sampling or SamplingParams(), n=n, echo=echo)
    return [event async for event in EchoEngine(context_length=100).generate(request)]


async def answer_text(prompt: Prompt, sampling: SamplingParams | None = None, *, echo: bool = False) -> str:
    return "".join(event.text for event in await events(prompt, sampling, echo=echo) if isinstance(event, Delta))


@given(st.text(min_size=1, max_size=8))
async def test_a_prompt_is_answered_with_itself_and_a_conversation_with_its_last_message(text: str) -> None:
    assert await answer_text(TextPrompt(text)) == text
    assert await answer_text(TokenPrompt(tuple(text.encode()))) == text
    assert (
        await answer_text(
            ChatPrompt(messages=(Message(role="system", content="Be brief."), Message(role="user", content=text)))
        )
        == text
    )


async def test_every_choice_ends_and_the_request_ends_with_its_usage() -> None:
    answer = await events(TextPrompt("ab"), n=2)
    assert [event for event in answer if isinstance(event, Finished)] == [Finished(0, "stop"), Finished(1, "stop")]
    assert answer[-1] == Usage(2, 6, 0)
    assert [event.token_ids for event in answer if isinstance(event, Delta) and event.index == 1] == [[97], [98], [END]]


async def test_the_answer_repeats_if_more_tokens_are_requested() -> None:
    assert await answer_text(TextPrompt("ab"), SamplingParams(ignore_eos=True, max_tokens=8)) == "ababab"
    assert await answer_text(TextPrompt("ab"), SamplingParams(min_tokens=4)) == "abab"


async def test_the_prompt_can_be_returned_before_the_answer() -> None:
    assert await answer_text(TextPrompt("ab"), echo=True) == "abab"


async def test_an_answer_ends_where_the_context_does() -> None:
    answer = await events(TextPrompt("a" * 90), SamplingParams(max_tokens=1000))
    assert answer[-2:] == [Finished(0, "length"), Usage(90, 10, 0)]


async def test_a_prompt_that_fills_the_context_is_refused() -> None:
    with pytest.raises(ContextOverflow, match="has 100 tokens; the model's context length is 100 tokens"):
        await events(TextPrompt("a" * 100))


@pytest.mark.parametrize("prompt", [TextPrompt(""), TokenPrompt(()), TokenPrompt((257,)), TokenPrompt((-1,))])
async def test_an_empty_prompt_or_an_unknown_token_id_is_refused(prompt: Prompt) -> None:
    with pytest.raises(BadRequest) as caught:
        await events(prompt)
    assert caught.value.parameter == "prompt"


async def test_a_long_answer_does_not_block_the_event_loop() -> None:
    answering = asyncio.create_task(events(TextPrompt("a"), SamplingParams(max_tokens=90, ignore_eos=True)))
    turns = 0
    while not answering.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 90


HELLO = ChatPrompt(messages=(Message(role="user", content="Hello"),))
TOOLS = (Tool("now"),)


async def answer_logprobs(
    prompt: Prompt, logprobs: int, sampling: SamplingParams | None = None, *, echo: bool = False
) -> list[TokenLogprobs]:
    request = GenerationRequest(
        model="echo", prompt=prompt, sampling=sampling or SamplingParams(), echo=echo, logprobs=logprobs
    )
    answer = [event async for event in EchoEngine(context_length=100).generate(request)]
    return [token for event in answer if isinstance(event, Delta) for token in event.logprobs]


@given(st.text(min_size=1, max_size=8))
async def test_every_byte_of_the_answer_has_logprob_zero_reported_once(text: str) -> None:
    assert b"".join(token.token for token in await answer_logprobs(TextPrompt(text), 0)) == text.encode()
    for token in await answer_logprobs(TextPrompt(text), 5):
        assert (token.logprob, token.top) == (0.0, [TopLogprob(token.token_id, token.token, 0.0)])


async def test_an_echoed_prompt_has_logprobs_except_for_its_first_byte() -> None:
    tokens = await answer_logprobs(TextPrompt("ab"), 1, echo=True)
    assert [token.token for token in tokens] == [b"a", b"b", b"a", b"b"]
    assert [(token.logprob, len(token.top)) for token in tokens] == [(None, 0), (0.0, 1), (0.0, 1), (0.0, 1)]


async def test_logprobs_of_text_cut_off_by_a_stop_string_are_not_reported() -> None:
    tokens = await answer_logprobs(TextPrompt("one two three"), 0, SamplingParams(stop=("two",)))
    assert b"".join(token.token for token in tokens) == b"one "
    inclusive = SamplingParams(stop=("two",), include_stop_text=True)
    tokens = await answer_logprobs(TextPrompt("one two three"), 0, inclusive)
    assert b"".join(token.token for token in tokens) == b"one two"


async def test_logprobs_of_invalid_utf_8_carry_the_raw_bytes() -> None:
    prompt = TokenPrompt((0xE6, 0x61, 0xFF))
    assert [token.token for token in await answer_logprobs(prompt, 0)] == [b"\xe6", b"a", b"\xff"]


async def test_logprobs_are_not_reported_unless_requested() -> None:
    assert not any(event.logprobs for event in await events(TextPrompt("ab")) if isinstance(event, Delta))


@pytest.mark.parametrize("name", FORMATS)
async def test_calls_are_read_in_the_engines_tool_format(name: ToolFormatName) -> None:
    engine = EchoEngine(tool_format=name)
    repeated = write_calls(FORMATS[name].markup, [ToolCall("abcdefgh9", "now", '{"zone": "UTC"}')])
    prompt = ChatPrompt(messages=(Message(role="user", content=repeated),), tools=ToolOptions(TOOLS))
    answer = [event async for event in engine.generate(GenerationRequest(model="echo", prompt=prompt))]
    deltas = [event for event in answer if isinstance(event, ToolCallDelta)]
    assert (deltas[0].name, "".join(delta.arguments for delta in deltas)) == ("now", '{"zone": "UTC"}')
    assert engine.tool_format == name


async def test_tools_that_may_be_called_and_an_effort_change_nothing() -> None:
    prompt = msgspec.structs.replace(HELLO, tools=ToolOptions(TOOLS), reasoning_effort="high")
    assert await answer_text(prompt) == "Hello"


def of_choice(answer: list[Event], index: int) -> list[Event]:
    """Return the events of one choice, with a fixed id in place of each call's random one."""
    chosen = [event for event in answer if isinstance(event, ChoiceEvent) and event.index == index]
    return [
        msgspec.structs.replace(event, id="random") if isinstance(event, ToolCallDelta) and event.id else event
        for event in chosen
    ]


def tokens_of(answer: list[Event], index: int) -> tuple[int, ...]:
    deltas = [event for event in of_choice(answer, index) if isinstance(event, AnyDelta)]
    return tuple(token for delta in deltas for token in delta.token_ids)


CALL = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'

repeated = st.lists(st.sampled_from(["a", "é", "😀", "STOP", "ST", CALL]), max_size=5).map("".join)
samplings = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 60),
    min_tokens=st.integers(0, 5),
    stop=st.sampled_from([(), ("STOP",), ("é", "Sa")]),
    ignore_eos=st.booleans(),
)


@given(repeated, samplings, st.booleans(), st.integers(1, 2), st.booleans(), st.data())
async def test_a_resumed_answer_has_the_events_of_an_uninterrupted_one(
    text: str, sampling: SamplingParams, tools: bool, n: int, echo: bool, data: st.DataObject
) -> None:
    prompt = ChatPrompt(messages=(Message(role="user", content=text),), tools=ToolOptions(TOOLS) if tools else None)
    request = GenerationRequest(model="echo", prompt=prompt, sampling=sampling, n=n, echo=echo)
    engine = EchoEngine(context_length=1000)
    uninterrupted = [event async for event in engine.generate(request)]
    generated = [tokens_of(uninterrupted, index) for index in range(n)]
    resume_token_ids = tuple(tokens[: data.draw(st.integers(0, len(tokens)))] for tokens in generated)
    resumed = [
        event async for event in engine.generate(msgspec.structs.replace(request, resume_token_ids=resume_token_ids))
    ]
    assert [of_choice(resumed, index) for index in range(n)] == [of_choice(uninterrupted, index) for index in range(n)]
    assert resumed[-1] == uninterrupted[-1]
    assert (await engine.statistics()).running == 0


async def test_resumed_tokens_are_sent_without_delay() -> None:
    engine = EchoEngine(tokens_per_second=1e-6)
    tokens = (*b"sent before", END)
    request = GenerationRequest(model="echo", prompt=TextPrompt("sent before"), resume_token_ids=(tokens,))
    answer = [event async for event in engine.generate(request)]
    assert "".join(event.text for event in answer if isinstance(event, Delta)) == "sent before"
    assert answer[-1] == Usage(11, 12, 0)


@pytest.mark.parametrize(
    ("resume_token_ids", "logprobs", "reason"),
    [
        (((97,), (98,)), None, "of each of the 1 choices, got those of 2"),
        (((97, 257),), None, "from 0 to 256, got 257"),
        (((97, -1),), None, "from 0 to 256, got -1"),
        (((97,),), 0, "log-probabilities"),
        (((97, 98, 99, 97),), None, "holds 4 tokens of choice 0, but as this request stands the choice ends with 3"),
        (((97, END, 97),), None, "holds 3 tokens of choice 0, but as this request stands the choice ends with 2"),
    ],
)
async def test_impossible_resume_tokens_are_refused_before_any_event(
    resume_token_ids: tuple[tuple[int, ...], ...], logprobs: int | None, reason: str
) -> None:
    sampling = SamplingParams(max_tokens=3)
    request = GenerationRequest(
        model="echo", prompt=TextPrompt("abc"), sampling=sampling, resume_token_ids=resume_token_ids, logprobs=logprobs
    )
    engine = EchoEngine()
    with pytest.raises(BadRequest, match=reason) as caught:
        await anext(engine.generate(request))
    assert caught.value.parameter == "resume_token_ids"
    assert (await engine.statistics()).running == 0


async def test_forbidden_bytes_are_left_out() -> None:
    allowed = SamplingParams(allowed_token_ids=(ord("a"), ord("c"), END))
    assert await answer_text(TextPrompt("abcabc"), allowed) == "acac"
    assert await answer_text(TextPrompt("abcabd"), SamplingParams(bad_words=("bd", "ca"))) == "abcb"
    with pytest.raises(BadRequest, match="nothing of it is allowed") as caught:
        await answer_text(TextPrompt("ab"), SamplingParams(allowed_token_ids=(ord("x"),)))
    assert caught.value.parameter == "allowed_token_ids"
    with pytest.raises(BadRequest, match="token ids from 0 to 256, got 257"):
        await answer_text(TextPrompt("ab"), SamplingParams(allowed_token_ids=(257,)))


async def test_an_answer_without_forbidden_bytes_is_resumed_where_it_was_interrupted() -> None:
    request = GenerationRequest(
        model="echo", prompt=TextPrompt("abcabcd"), sampling=SamplingParams(bad_words=("b", "ac"))
    )
    whole = [event async for event in EchoEngine().generate(request)]
    tokens = [token for event in whole if isinstance(event, Delta) for token in event.token_ids]
    assert tokens == [*b"aad", END]
    for count in range(1, len(tokens)):
        resumed = msgspec.structs.replace(request, resume_token_ids=(tuple(tokens[:count]),))
        assert [event async for event in EchoEngine().generate(resumed)] == whole


async def test_a_stop_string_is_the_reason_of_the_end() -> None:
    answer = await events(TextPrompt("abc"), SamplingParams(stop=("b",)))
    assert [event for event in answer if isinstance(event, Finished)] == [Finished(0, "stop", "b")]


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [
        (PromptTruncation(2), "cd"),
        (PromptTruncation(2, side="right"), "ab"),
        (PromptTruncation(9), "abcd"),
        (PromptTruncation(), "abcd"),
    ],
)
async def test_a_prompt_is_truncated(truncation: PromptTruncation, kept: str) -> None:
    for prompt in (TextPrompt("abcd", truncation), TokenPrompt(tuple(b"abcd"), truncation)):
        answer = await events(prompt, echo=True)
        assert "".join(event.text for event in answer if isinstance(event, Delta)) == kept * 2
        assert answer[-1] == Usage(len(kept), len(kept) + 1, 0)


async def test_a_prompt_is_truncated_to_what_the_context_holds_beside_the_answer() -> None:
    sampling = SamplingParams(max_tokens=30)
    [usage] = [
        event
        for event in await events(TextPrompt("a" * 500, PromptTruncation(answer_tokens=30)), sampling)
        if isinstance(event, Usage)
    ]
    assert (usage.prompt_tokens, usage.completion_tokens) == (70, 30)
    with pytest.raises(BadRequest, match="at most the context length of 100, got 101"):
        await events(TextPrompt("a", PromptTruncation(101)))


async def test_the_prompt_is_reported_with_certain_log_probabilities() -> None:
    request = GenerationRequest(model="echo", prompt=TextPrompt("ab"), prompt_logprobs=1, n=2)
    reported = [event async for event in EchoEngine().generate(request) if isinstance(event, PromptTokens)]
    logprobs = [
        TokenLogprobs(97, b"a", None, []),
        TokenLogprobs(98, b"b", 0.0, [TopLogprob(98, b"b", 0.0)], 1),
    ]
    assert reported == [PromptTokens(index, [97, 98], logprobs) for index in (0, 1)]


async def test_without_an_answer_the_prompt_is_echoed() -> None:
    answer = await events(TextPrompt("ab"), SamplingParams(max_tokens=0), echo=True)
    assert answer == [Started(2, 0), Delta(0, "ab", []), Finished(0, "length"), Usage(2, 0, 0)]
