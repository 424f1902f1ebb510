import asyncio
import socket
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    ModelLoading,
    ModelNameTaken,
    ModelNotFound,
    Overloaded,
)
from dragoman.core.events import (
    Delta,
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TokenLogprobs,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from dragoman.core.request import (
    GrammarFormat,
    JsonObjectFormat,
    JsonSchemaFormat,
    RegexFormat,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolOptions,
)
from dragoman.engines.base import EngineStatistics
from dragoman.engines.llama.wire import messages
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord
from dragoman.engines.llama.wire.messages import EngineCommand, EngineReply
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.prompt.output_parser import OutputParserSpec

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
SCHEMAS = st.dictionaries(TEXTS, TEXTS | st.none() | st.lists(st.floats(0, 1), max_size=2), max_size=2)
FORMATS = st.one_of(
    st.builds(JsonObjectFormat),
    st.builds(JsonSchemaFormat, SCHEMAS | st.booleans(), st.booleans()),
    st.builds(RegexFormat, TEXTS),
    st.builds(GrammarFormat, TEXTS),
)
TOOLS = st.lists(st.builds(Tool, TEXTS, st.none() | TEXTS, st.none() | SCHEMAS, st.booleans()), max_size=2).map(tuple)
TOOL_OPTIONS = st.builds(ToolOptions, TOOLS, st.sampled_from(["auto", "required"]))
REASONING_SPECS = st.builds(ReasoningSpec, TEXTS, TEXTS, st.booleans(), st.none() | COUNTS)
PARSER_SPECS = st.builds(
    OutputParserSpec, st.sampled_from(["hermes", "llama3", "mistral", "generic", None]), st.none() | REASONING_SPECS
)
TOP_LOGPROBS = st.builds(TopLogprob, COUNTS, st.binary(max_size=4), st.floats(-99, 0))
LOGPROBS = st.builds(
    TokenLogprobs, COUNTS, st.binary(max_size=4), st.none() | st.floats(-99, 0), st.lists(TOP_LOGPROBS, max_size=2)
)
SOURCES = st.builds(AdapterSource, st.sampled_from(["local", "hub"]), TEXTS, st.none() | TEXTS)
ADAPTERS = st.builds(
    Adapter,
    name=TEXTS,
    source=SOURCES,
    created_at=COUNTS,
    aliases=st.lists(TEXTS, max_size=2).map(tuple),
    scale=st.floats(-2, 2),
    creator=TEXTS,
)
COMMANDS: st.SearchStrategy[EngineCommand] = st.one_of(
    st.builds(
        messages.GenerateCommand,
        number=NUMBERS,
        prompt=PROMPTS,
        sampling=SAMPLINGS,
        n=COUNTS,
        echo=st.booleans(),
        priority=COUNTS,
        logprobs=st.none() | st.integers(0, 20),
        response_format=st.none() | FORMATS,
        tools=st.none() | TOOL_OPTIONS,
        output_format=PARSER_SPECS,
        adapter=st.none() | TEXTS,
        owner=TEXTS,
        cache_salt=TEXTS,
    ),
    st.builds(messages.AddAdapterCommand, NUMBERS, st.builds(AdapterRecord, ADAPTERS, TEXTS)),
    st.builds(messages.RemoveAdapterCommand, NUMBERS, TEXTS),
    st.builds(messages.CancelCommand, NUMBERS),
    st.builds(messages.StatisticsCommand, NUMBERS),
)
EVENTS = st.one_of(
    st.builds(Delta, COUNTS, TEXTS, IDS, st.lists(LOGPROBS, max_size=2)),
    st.builds(ReasoningDelta, COUNTS, TEXTS, IDS),
    st.builds(
        ToolCallDelta,
        index=COUNTS,
        call_index=COUNTS,
        arguments=TEXTS,
        token_ids=IDS,
        id=st.none() | TEXTS,
        name=st.none() | TEXTS,
    ),
    st.builds(Finished, COUNTS, st.sampled_from(["stop", "length", "tool_calls"])),
    st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS),
)
REPLIES: st.SearchStrategy[EngineReply] = st.one_of(
    st.builds(messages.Handshake, COUNTS, st.none() | TEXTS, TEXTS, TEXTS),
    st.builds(messages.FingerprintReply, TEXTS),
    st.builds(messages.EventReply, NUMBERS, EVENTS),
    st.builds(
        messages.StatisticsReply,
        NUMBERS,
        st.builds(EngineStatistics, **dict.fromkeys(EngineStatistics.__struct_fields__, COUNTS)),
    ),
    st.builds(messages.ErrorReply, NUMBERS, st.binary(max_size=10)),
    st.builds(messages.AdapterReply, NUMBERS, ADAPTERS),
)


async def commands_in(data: bytes) -> list[EngineCommand]:
    reader = received(data)
    commands = []
    while (command := await messages.read_command(reader)) is not None:
        commands.append(command)
    return commands


async def replies_in(data: bytes) -> list[list[EngineReply]]:
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


def sent_and_received(error: DragomanError) -> DragomanError:
    """Send an error, and return it as received."""
    [[reply]] = asyncio.run(replies_in(messages.encode([messages.error_reply(7, error)])))
    assert isinstance(reply, messages.ErrorReply)
    assert reply.number == 7
    return reply.error()


@given(st.lists(COMMANDS, max_size=4))
async def test_commands_come_out_as_they_went_in(commands: list[EngineCommand]) -> None:
    assert await commands_in(b"".join(map(messages.encode, commands))) == commands


@given(st.lists(st.lists(REPLIES, max_size=4), max_size=3))
async def test_replies_come_out_as_they_went_in(frames: list[list[EngineReply]]) -> None:
    assert await replies_in(b"".join(map(messages.encode, frames))) == frames


@given(COMMANDS, st.data())
async def test_a_frame_that_is_cut_is_the_end_of_the_connection(command: EngineCommand, data: st.DataObject) -> None:
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
        EngineFailed("The response format leaves no token to choose from"),
        ModelNotFound("pirate"),
        ModelNameTaken("pirate"),
    ],
)
def test_a_refusal_comes_out_as_the_same_error(error: DragomanError) -> None:
    same = sent_and_received(error)
    assert type(same) is type(error)
    assert vars(same) == vars(error)
    assert str(same) == str(error)


def test_every_kind_of_overload_keeps_retry_after() -> None:
    same = sent_and_received(ModelLoading("The model is being loaded", 2))
    assert isinstance(same, Overloaded)
    assert (same.message, same.retry_after) == ("The model is being loaded", 2)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x90", msgspec.msgpack.encode(["unknown", 1])])
async def test_a_frame_that_is_no_message_is_an_engine_failure(body: bytes) -> None:
    frame = struct.pack("<I", len(body)) + body
    with pytest.raises(EngineFailed):
        await commands_in(frame)
    with pytest.raises(EngineFailed):
        await replies_in(struct.pack("<I", len(body) + 1) + b"\x91" + body)


async def test_the_tokens_of_an_answer_that_is_not_streamed_are_sent_together() -> None:
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    reader, reading = await asyncio.open_connection(sock=theirs)
    now = 0.0
    sender = messages.ReplySender(writer, 1000, clock=lambda: now)
    sender.buffered.add(1)

    def publish(*replies: tuple[int, Event]) -> list[EngineReply]:
        events: list[EngineReply] = [messages.EventReply(number, event) for number, event in replies]
        sender.publish(events)
        return events

    token, usage = Delta(0, "a", [5]), Usage(1, 2, 0)
    begun = publish((1, Started(1, 0)), (1, token))
    assert await messages.read_replies(reader) == begun, "how soon an answer begins is measured"
    publish((1, token), (1, Delta(1, "x", [6])))
    publish((1, token), (1, Delta(1, "y", [7])))
    streamed = publish((2, token), (2, token))
    both = [messages.EventReply(1, Delta(0, "aa", [5, 5])), messages.EventReply(1, Delta(1, "xy", [6, 7]))]
    assert await messages.read_replies(reader) == streamed + both, "nobody waits for a token that is streamed"
    publish((1, token))
    now = 1.0
    publish((1, token))
    assert await messages.read_replies(reader) == both[:1], "it stays for a moment only"
    publish((1, token))
    ended = publish((1, token), (1, Finished(0, "stop")), (1, usage))
    assert await messages.read_replies(reader) == [*both[:1], *ended[1:]]
    sender.close()
    reading.close()
    await asyncio.gather(writer.wait_closed(), reading.wait_closed())


async def test_a_frame_of_absurd_length_is_an_engine_failure() -> None:
    with pytest.raises(EngineFailed, match="4294967295 bytes"):
        await commands_in(b"\xff\xff\xff\xff")
