import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest, ContextOverflow
from dragoman.core.events import Delta, Event, Finished, Usage
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    Message,
    Prompt,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
)
from dragoman.engines.echo import EchoEngine
from dragoman.engines.echo.engine import END


async def events(
    prompt: Prompt, sampling: SamplingParams | None = None, *, echo: bool = False, n: int = 1
) -> list[Event]:
    request = GenerationRequest("echo", prompt, sampling or SamplingParams(), n, echo)
    return [event async for event in EchoEngine(context_length=100).generate(request)]


async def said(prompt: Prompt, sampling: SamplingParams | None = None, *, echo: bool = False) -> str:
    return "".join(event.text for event in await events(prompt, sampling, echo=echo) if isinstance(event, Delta))


@given(st.text(min_size=1, max_size=8))
async def test_a_prompt_is_answered_with_itself_and_a_conversation_with_its_last_message(text: str) -> None:
    assert await said(TextPrompt(text)) == text
    assert await said(TokenPrompt(tuple(text.encode()))) == text
    assert await said(ChatPrompt((Message("system", "Be brief."), Message("user", text)))) == text


async def test_every_choice_ends_and_the_request_ends_with_its_usage() -> None:
    answer = await events(TextPrompt("ab"), n=2)
    assert [event for event in answer if isinstance(event, Finished)] == [Finished(0, "stop"), Finished(1, "stop")]
    assert answer[-1] == Usage(2, 6, 0)
    assert [event.token_ids for event in answer if isinstance(event, Delta) and event.index == 1] == [[97], [98], [END]]


async def test_an_engine_asked_for_more_begins_again() -> None:
    assert await said(TextPrompt("ab"), SamplingParams(ignore_eos=True, max_tokens=8)) == "ababab"
    assert await said(TextPrompt("ab"), SamplingParams(min_tokens=4)) == "abab"


async def test_the_prompt_can_stand_before_the_answer() -> None:
    assert await said(TextPrompt("ab"), echo=True) == "abab"


async def test_an_answer_ends_where_the_context_does() -> None:
    answer = await events(TextPrompt("a" * 90), SamplingParams(max_tokens=1000))
    assert answer[-2:] == [Finished(0, "length"), Usage(90, 10, 0)]


async def test_a_prompt_without_room_for_an_answer_is_refused() -> None:
    with pytest.raises(ContextOverflow, match="has 100 tokens; the model's context length is 100 tokens"):
        await events(TextPrompt("a" * 100))


@pytest.mark.parametrize("prompt", [TextPrompt(""), TokenPrompt(()), TokenPrompt((257,)), TokenPrompt((-1,))])
async def test_a_prompt_that_says_nothing_or_is_no_text_is_refused(prompt: Prompt) -> None:
    with pytest.raises(BadRequest) as caught:
        await events(prompt)
    assert caught.value.parameter == "prompt"


async def test_others_have_their_turn_during_a_long_answer() -> None:
    answering = asyncio.create_task(events(TextPrompt("a"), SamplingParams(max_tokens=90, ignore_eos=True)))
    turns = 0
    while not answering.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 90
