"""The worker's side of the engine's socket, against processes that misbehave."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.core.errors import BadRequest, EngineFailed, ModelLoading, ModelNotFound, ModelUnavailable, ReplicaFailed
from dragoman.core.events import Delta, Event, Finished, Unenforced, Usage
from dragoman.core.request import (
    QUEUED_PRIORITY_OFFSET,
    ChatPrompt,
    GenerationRequest,
    JsonObjectFormat,
    Message,
    TextPrompt,
    Tool,
    ToolOptions,
)
from dragoman.engines.llama.wire import messages
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord, registry_path, write_registry
from dragoman.engines.llama.wire.options import DEFAULT_TIMEOUTS, EngineTimeouts
from dragoman.engines.llama.wire.start_failure import EngineStartFailure, start_failure_path, write_start_failure
from dragoman.engines.llama.worker.adapters import RemoteAdapters
from dragoman.engines.llama.worker.client import LlamaEngine
from tests.support.chat_templates import ALWAYS_REASONING, HERMES
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

REQUEST = GenerationRequest(model="any", prompt=TextPrompt("Once"))

HANDSHAKE = messages.Handshake(1024, "{{ raise_exception('no') }}", "", "")

ConnectionHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def _engine(
    socket_path: Path,
    conversation: ConnectionHandler,
    *,
    architecture: str | None = None,
    timeouts: EngineTimeouts = DEFAULT_TIMEOUTS,
    handshake: messages.Handshake = HANDSHAKE,
) -> AsyncIterator[LlamaEngine]:
    """Yield a client of a process that sends a handshake and then runs `conversation`."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # The client may have closed the connection first.
            try:
                writer.write(messages.encode([handshake]))
                await conversation(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(serve(reader, writer)))

    engine = LlamaEngine(socket_path, architecture=architecture, timeouts=timeouts)
    async with await asyncio.start_unix_server(accept, socket_path), asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await engine.start()
        try:
            yield engine
        finally:
            await engine.close()
            await asyncio.gather(*serving)


async def _collect(engine: LlamaEngine, request: GenerationRequest = REQUEST) -> list[Event]:
    return [event async for event in engine.generate(request)]


async def _read_generate_command(reader: asyncio.StreamReader) -> messages.GenerateCommand:
    command = await messages.read_command(reader)
    assert isinstance(command, messages.GenerateCommand)
    return command


def _replies(number: int, *events: Event) -> bytes:
    return messages.encode([messages.EventReply(number, event) for event in events])


async def test_an_answer_comes_through_in_order(tmp_path: Path) -> None:
    events = (Delta(0, "a", [1]), Delta(0, "b", [2]), Finished(0, "stop"), Usage(1, 2, 0))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = await _read_generate_command(reader)
        writer.write(_replies(command.number, *events))
        await reader.read()

    async with _engine(tmp_path / "engine.sock", answer) as engine:
        assert await _collect(engine) == list(events)


@pytest.mark.parametrize(("template", "reported"), [(HERMES, ("hermes", False)), (ALWAYS_REASONING, ("generic", True))])
async def test_the_tool_format_and_the_reasoning_are_known_with_the_model(
    tmp_path: Path, template: str, reported: tuple[str, bool]
) -> None:
    async def end_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = await _read_generate_command(reader)
        writer.write(_replies(command.number, Usage(1, 0, 0)))
        await reader.read()

    handshake = msgspec.structs.replace(HANDSHAKE, chat_template=template)
    async with _engine(tmp_path / "engine.sock", end_at_once, handshake=handshake) as engine:
        before = engine.tool_format
        assert await _collect(engine) == [Usage(1, 0, 0)]
        assert (before, engine.tool_format, engine.supports_reasoning) == (None, *reported)


async def test_the_fingerprint_is_known_once_the_process_reports_it(tmp_path: Path) -> None:
    async def identify(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = await _read_generate_command(reader)
        writer.write(
            messages.encode([messages.FingerprintReply("fp_0123456789ab")]) + _replies(command.number, Usage(1, 0, 0))
        )
        await reader.read()

    async with _engine(tmp_path / "engine.sock", identify) as engine:
        assert engine.fingerprint is None
        assert await _collect(engine) == [Usage(1, 0, 0)]
        assert engine.fingerprint == "fp_0123456789ab"


async def test_a_request_without_output_may_be_answered_by_another_replica(tmp_path: Path) -> None:
    submissions = 0

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal submissions
        command = await _read_generate_command(reader)
        submissions += 1
        writer.write(_replies(command.number, Unenforced(0, ["'contains' at #"])))

    async with _engine(tmp_path / "engine.sock", die) as engine:
        with pytest.raises(ReplicaFailed):
            await _collect(engine)
    assert submissions == 1


async def test_a_request_that_streamed_text_is_not_retried(tmp_path: Path) -> None:
    submissions = 0

    async def send_output_and_die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal submissions
        command = await _read_generate_command(reader)
        submissions += 1
        writer.write(_replies(command.number, Delta(0, "a", [1])))

    async with _engine(tmp_path / "engine.sock", send_output_and_die) as engine:
        with pytest.raises(EngineFailed) as caught:
            await _collect(engine)
    assert not isinstance(caught.value, ReplicaFailed)
    assert submissions == 1


async def test_closing_the_answer_early_cancels_it(tmp_path: Path) -> None:
    cancelled = asyncio.Event()

    async def keep_sending(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = await _read_generate_command(reader)
        writer.write(_replies(command.number, Delta(0, "a", [1])))
        assert await messages.read_command(reader) == messages.CancelCommand(command.number)
        cancelled.set()

    async with _engine(tmp_path / "engine.sock", keep_sending) as engine:
        async with contextlib.aclosing(engine.generate(REQUEST)) as events:
            assert await anext(events) == Delta(0, "a", [1])
        await cancelled.wait()


async def test_messages_the_template_refuses_never_reach_the_process(tmp_path: Path) -> None:
    async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        assert await messages.read_command(reader) is None

    async with _engine(tmp_path / "engine.sock", listen) as engine:
        with pytest.raises(BadRequest, match="refuses these messages: no"):
            await _collect(
                engine,
                GenerationRequest(model="any", prompt=ChatPrompt(messages=(Message(role="user", content="Hi"),))),
            )


async def _sent_prompt(tmp_path: Path, request: GenerationRequest) -> str:
    """Return the prompt that reaches the process."""
    texts: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = await _read_generate_command(reader)
        assert isinstance(command.prompt, TextPrompt)
        texts.append(command.prompt.text)
        writer.write(_replies(command.number, Usage(1, 1, 0)))
        await reader.read()

    async with _engine(tmp_path / "engine.sock", answer) as engine:
        await _collect(engine, request)
    (text,) = texts
    return text


async def test_a_template_of_the_request_replaces_the_models(tmp_path: Path) -> None:
    prompt = ChatPrompt(
        messages=(Message(role="user", content="Hi"),),
        template="{{ messages[0].content }}{{ x }}",
        template_arguments={"x": 1},
    )
    assert await _sent_prompt(tmp_path, GenerationRequest(model="any", prompt=prompt)) == "Hi1"


async def test_a_constrained_answer_begins_after_the_reasoning(tmp_path: Path) -> None:
    template = "{{ messages[0].content }}{% if messages[0].content == '</think>' %}{% endif %}:"
    free = ChatPrompt(messages=(Message(role="user", content="Hi"),), template=template)
    bound = ChatPrompt(
        messages=free.messages,
        tools=ToolOptions((Tool("f", "What f does. "),), "required"),
        template="{% for tool in tools or () %}{{ tool.function.description }}{% endfor %}{# <tool_call> #}" + template,
    )
    assert await _sent_prompt(tmp_path, GenerationRequest(model="any", prompt=free)) == "Hi:"
    assert await _sent_prompt(tmp_path, GenerationRequest(model="any", prompt=bound)) == "What f does. Hi:<think>\n"
    request = GenerationRequest(model="any", prompt=free, response_format=JsonObjectFormat())
    assert await _sent_prompt(tmp_path, request) == "Hi:<think>\n"


async def test_a_process_that_is_not_there_yet_means_model_loading(tmp_path: Path) -> None:
    engine = LlamaEngine(tmp_path / "engine.sock")
    await engine.start()
    assert not engine.ready
    with pytest.raises(ModelLoading):
        await _collect(engine)
    with pytest.raises(EngineFailed):
        await engine.statistics()
    await engine.close()


SHORT = EngineTimeouts(heartbeat=0.6, event=0.6, reply=0.6, ready=0.3)


async def test_a_process_without_heartbeats_counts_as_dead(tmp_path: Path) -> None:
    connections = 0

    async def hang_at_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        command = await _read_generate_command(reader)
        if connections == 2:
            writer.write(_replies(command.number, Delta(0, "a", [1])))
        elif connections == 3:
            writer.write(_replies(command.number, Usage(1, 0, 0)))
        await reader.read()

    async with _engine(tmp_path / "engine.sock", hang_at_first, timeouts=SHORT._replace(event=60.0)) as engine:
        for failure in (ReplicaFailed, EngineFailed):
            with pytest.raises(EngineFailed, match="stopped while it was answering") as caught:
                await _collect(engine)
            assert type(caught.value) is failure
        assert connections == 2
        assert await _collect(engine) == [Usage(1, 0, 0)]


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.to_thread(os.sched_yield)


async def _beat(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(messages.encode([messages.HeartbeatReply()]))
        await asyncio.sleep(SHORT.ready / 2)


async def test_a_process_that_forgets_a_request_fails_it_in_time_and_may_then_drop_it(tmp_path: Path) -> None:
    received: list[messages.EngineCommand | None] = []

    async def beat_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beating = asyncio.create_task(_beat(writer))
        while (command := await messages.read_command(reader)) is not None:
            received.append(command)
        await beating

    async with _engine(tmp_path / "engine.sock", beat_only, timeouts=SHORT) as engine:
        with pytest.raises(EngineFailed, match=r"sent nothing for 0\.6 seconds"):
            await _collect(engine)
        with pytest.raises(EngineFailed, match=r"did not answer within 0\.6 seconds"):
            await engine.count_tokens(TextPrompt("Once"))
        assert engine.ready
    assert messages.CancelCommand(0) in received


async def test_queued_requests_wait_for_as_long_as_the_process_lives(tmp_path: Path) -> None:
    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beating = asyncio.create_task(_beat(writer))
        command = await _read_generate_command(reader)
        await asyncio.sleep(3 * SHORT.event)
        writer.write(_replies(command.number, Usage(1, 0, 0)))
        await reader.read()
        writer.close()
        await beating

    async with _engine(tmp_path / "engine.sock", answer_late, timeouts=SHORT) as engine:
        queued = msgspec.structs.replace(REQUEST, priority=QUEUED_PRIORITY_OFFSET)
        assert await _collect(engine, queued) == [Usage(1, 0, 0)]


async def test_a_process_that_was_silent_for_some_seconds_is_not_ready(tmp_path: Path) -> None:
    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with _engine(tmp_path / "engine.sock", hang, timeouts=SHORT) as engine:
        await _until(lambda: engine.ready)
        await _until(lambda: not engine.ready)
        assert engine.context_length is not None, "the connection is still there"


async def test_a_model_that_cannot_be_loaded_is_unavailable_until_the_next_attempt(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    wakes = 0

    def wake() -> None:
        nonlocal wakes
        wakes += 1

    engine = LlamaEngine(path, wake)
    await engine.start()
    assert engine.ready
    failure = EngineStartFailure(
        model="any", reason="broken.gguf is damaged", attempts=3, next_attempt_at=time.monotonic() + 4
    )
    waiting = asyncio.create_task(_collect(engine))
    await _until(lambda: wakes > 0)
    write_start_failure(start_failure_path(path), failure)
    with pytest.raises(ModelUnavailable) as refusal:
        await waiting
    assert "broken" not in refusal.value.message
    assert refusal.value.retry_after in (3, 4)
    assert (engine.ready, engine.failure) == (False, "broken.gguf is damaged")
    with pytest.raises(ModelUnavailable):
        await _collect(engine)
    write_start_failure(start_failure_path(path), msgspec.structs.replace(failure, next_attempt_at=None))
    waiting = asyncio.create_task(_collect(engine))
    await _until(lambda: wakes == 3)
    assert (engine.ready, engine.failure) == (False, "broken.gguf is damaged"), "the attempt may fail again"
    write_start_failure(start_failure_path(path), None)
    assert (engine.ready, engine.failure, waiting.done()) == (True, None, False)
    waiting.cancel()
    await engine.close()


PIRATE = Adapter(name="pirate", source=AdapterSource("local", "pirate"), created_at=17)


@contextlib.asynccontextmanager
async def _adapters(socket_path: Path, conversation: ConnectionHandler) -> AsyncIterator[RemoteAdapters]:
    async with _engine(socket_path, conversation, architecture="llama") as engine:
        assert engine.adapters is not None
        yield engine.adapters


async def test_adapters_are_changed_by_the_process_and_read_from_its_registry(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        added = await messages.read_command(reader)
        assert isinstance(added, messages.AddAdapterCommand)
        assert added.record == AdapterRecord(PIRATE, "/pirate.gguf")
        write_registry(registry_path(path), [added.record])
        writer.write(messages.encode([messages.AdapterReply(added.number, PIRATE)]))
        removed = await messages.read_command(reader)
        assert removed == messages.RemoveAdapterCommand(added.number + 1, "poet")
        writer.write(messages.encode([messages.error_reply(added.number + 1, ModelNotFound("poet"))]))
        await reader.read()

    async with _adapters(path, serve) as adapters:
        assert adapters.list_adapters() == ()
        assert await adapters.add(PIRATE, Path("/pirate.gguf")) == PIRATE
        assert adapters.list_adapters() == (PIRATE,)
        with pytest.raises(ModelNotFound):
            await adapters.remove("poet")


async def test_an_adapter_change_fails_with_the_process_that_received_it(tmp_path: Path) -> None:
    commands: list[messages.EngineCommand | None] = []

    async def die(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        commands.append(await messages.read_command(reader))

    async with _adapters(tmp_path / "engine.sock", die) as adapters:
        with pytest.raises(EngineFailed):
            await adapters.add(PIRATE, Path("/pirate.gguf"))
    assert isinstance(commands[0], messages.AddAdapterCommand)


def test_an_engine_whose_architecture_is_not_known_takes_no_adapters(tmp_path: Path) -> None:
    assert LlamaEngine(tmp_path / "engine.sock").adapters is None
