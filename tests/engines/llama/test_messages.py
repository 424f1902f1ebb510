import asyncio
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    ModelLoading,
    ModelNotFound,
    Overloaded,
)
from dragoman.core.events import Delta, Finished, Usage
from dragoman.core.request import SamplingParams, TextPrompt, TokenPrompt
from dragoman.engines.base import EngineStatistics
from dragoman.engines.llama import messages
from dragoman.engines.llama.messages import Command, Reply

NUMBERS = st.integers(0, 2**63)
COUNTS = st.integers(0, 2**31)
TEXTS = st.text(max_size=10)
IDS = st.lists(COUNTS, max_size=4)
PROMPTS = st.builds(TextPrompt, TEXTS) | st.builds(TokenPrompt, IDS.map(tuple))
SAMPLINGS = st.builds(
    SamplingParams,
    max_tokens=st.none() | COUNTS,
    temperature=st.floats(0, 2),
    logit_bias=st.dictionaries(COUNTS, st.floats(-100, 100), max_size=3),
    seed=st.none() | st.integers(0, 2**64 - 1),
    stop=st.lists(TEXTS, max_size=2).map(tuple),
    stop_token_ids=IDS.map(tuple),
)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(messages.Submit, NUMBERS, PROMPTS, SAMPLINGS, COUNTS, st.booleans(), COUNTS),
    st.builds(messages.Cancel, NUMBERS),
    st.builds(messages.AskStatistics, NUMBERS),
)
EVENTS = st.one_of(
    st.builds(Delta, COUNTS, TEXTS, IDS),
    st.builds(Finished, COUNTS, st.sampled_from(["stop", "length"])),
    st.builds(Usage, COUNTS, COUNTS, COUNTS),
)
REPLIES: st.SearchStrategy[Reply] = st.one_of(
    st.builds(messages.Welcome, COUNTS, st.none() | TEXTS, TEXTS, TEXTS),
    st.builds(messages.Identified, TEXTS),
    st.builds(messages.Output, NUMBERS, EVENTS),
    st.builds(messages.Statistics, NUMBERS, st.builds(EngineStatistics, *[COUNTS] * 5)),
    st.builds(messages.Refused, NUMBERS, TEXTS, st.none() | TEXTS),
    st.builds(messages.RefusedOverflow, NUMBERS, COUNTS, COUNTS, TEXTS, st.booleans()),
    st.builds(messages.RefusedOverload, NUMBERS, TEXTS, COUNTS),
)


async def commands_in(data: bytes) -> list[Command]:
    reader = received(data)
    commands = []
    while (command := await messages.read_command(reader)) is not None:
        commands.append(command)
    return commands


async def replies_in(data: bytes) -> list[list[Reply]]:
    reader = received(data)
    frames = []
    while (replies := await messages.read_replies(reader)) is not None:
        frames.append(replies)
    return frames


def received(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


def across(error: DragomanError) -> DragomanError:
    """The error as it comes out at the other end."""
    [[reply]] = asyncio.run(replies_in(messages.encode([messages.refusal(7, error)])))
    assert isinstance(reply, messages.Refused | messages.RefusedOverflow | messages.RefusedOverload)
    assert reply.number == 7
    return reply.error()


@given(st.lists(COMMANDS, max_size=4))
async def test_commands_come_out_as_they_went_in(commands: list[Command]) -> None:
    assert await commands_in(b"".join(map(messages.encode, commands))) == commands


@given(st.lists(st.lists(REPLIES, max_size=4), max_size=3))
async def test_replies_come_out_as_they_went_in(frames: list[list[Reply]]) -> None:
    assert await replies_in(b"".join(map(messages.encode, frames))) == frames


@given(COMMANDS, st.data())
async def test_a_frame_that_is_cut_is_the_end_of_the_connection(command: Command, data: st.DataObject) -> None:
    frame = messages.encode(command)
    cut = data.draw(st.integers(0, len(frame) - 1))
    assert await commands_in(frame[:cut]) == []
    assert await commands_in(frame + frame[:cut]) == [command]


@pytest.mark.parametrize(
    "error",
    [
        BadRequest("stop_token_ids must hold token ids from 0 to 9, got 10", "stop_token_ids"),
        BadRequest("The prompt is empty"),
        ContextOverflow(9000, 8192, "Shorten it."),
        ContextOverflow(9000, 8192, "Shorten it.", at_least=True),
        Overloaded("256 requests are waiting", 3),
    ],
)
def test_a_refusal_comes_out_as_the_same_error(error: DragomanError) -> None:
    same = across(error)
    assert type(same) is type(error)
    assert vars(same) == vars(error)
    assert str(same) == str(error)


def test_every_kind_of_overload_still_says_when_to_come_back() -> None:
    same = across(ModelLoading("The model is being loaded", 2))
    assert isinstance(same, Overloaded)
    assert (same.message, same.retry_after) == ("The model is being loaded", 2)


@pytest.mark.parametrize("error", [EngineFailed("broken"), ModelNotFound("gpt")])
def test_errors_that_are_no_refusals_are_not_sent(error: DragomanError) -> None:
    with pytest.raises(TypeError, match=type(error).__name__):
        messages.refusal(1, error)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x90", msgspec.msgpack.encode(["unknown", 1])])
async def test_a_frame_that_is_no_message_is_an_engine_failure(body: bytes) -> None:
    frame = struct.pack("<I", len(body)) + body
    with pytest.raises(EngineFailed):
        await commands_in(frame)
    with pytest.raises(EngineFailed):
        await replies_in(struct.pack("<I", len(body) + 1) + b"\x91" + body)


async def test_a_frame_of_absurd_length_is_an_engine_failure() -> None:
    with pytest.raises(EngineFailed, match="4294967295 bytes"):
        await commands_in(b"\xff\xff\xff\xff")
