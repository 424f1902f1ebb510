"""The engine process itself, with a model of two small layers."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from gguf import GGMLQuantizationType as Type

from dragoman.core.errors import BadRequest
from dragoman.core.events import Delta, Event, Finished, ToolCallDelta, Unenforced, Usage
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    JsonSchemaFormat,
    Message,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolOptions,
)
from dragoman.engines.llama.weights.rewriting import faster_file
from dragoman.engines.llama.wire.adapter_registry import registry_path
from dragoman.engines.llama.wire.options import EngineOptions, SavedPrefixOptions
from dragoman.engines.llama.worker.client import LlamaEngine
from tests.support.chat_templates import HERMES
from tests.support.gguf_files import write_tiny_model
from tests.support.models import THREADS
from tests.support.special_token_model import load_special_token_model
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

EXIT_SECONDS = 60
"""A bound on loading the small model and ending; a process that waits for ever exceeds it."""


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    return EngineOptions(
        model_path=str(write_tiny_model(tmp_path / "tiny.gguf")),
        socket_path=str(tmp_path / "engine.sock"),
        kv_cache_tokens=256,
        kv_cache_partitions=1,
        max_sequences=1,
        threads=THREADS,
        max_batched_tokens=256,
        max_draft_tokens=15,
        host_cache_tokens=0,
        max_adapters=4,
        max_waiting=1,
    )


def command(options: EngineOptions) -> list[str]:
    return [sys.executable, "-m", "dragoman.engines.llama.process", msgspec.json.encode(options).decode()]


@contextlib.contextmanager
def starting(options: EngineOptions) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that loads its model. Kill it at the end of the block."""
    process = subprocess.Popen(command(options), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def running(options: EngineOptions) -> AsyncIterator[LlamaEngine]:
    """A client of a process that is ready."""
    process = await asyncio.create_subprocess_exec(
        *command(options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    engine = LlamaEngine(Path(options.socket_path))
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while await process.stdout.readline() != b"ready\n":
                pass  # Heartbeats.
            await engine.start()
            yield engine
    finally:
        await engine.close()
        process.terminate()
        await process.wait()


async def fingerprint(options: EngineOptions) -> str:
    async with running(options) as engine:
        while engine.fingerprint is None:
            await engine.count_tokens(TextPrompt("Once"))
        return engine.fingerprint


async def answer(options: EngineOptions) -> str:
    async with running(options) as engine:
        sampling = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        events = engine.generate(GenerationRequest(model="tiny", prompt=TextPrompt("Once"), sampling=sampling))
        return "".join([event.text async for event in events if isinstance(event, Delta)])


async def test_an_answer_ends_where_the_chat_template_ends_a_turn(options: EngineOptions, tmp_path: Path) -> None:
    path = tmp_path / "turns.gguf"
    load_special_token_model(path, ("<|over|>",)).close()
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|over|>\n{% endfor %}"
    options = msgspec.structs.replace(options, model_path=str(path), chat_template=template)
    prompt = ChatPrompt(messages=(Message(role="user", content="Hi"),))
    async with running(options) as engine:
        over = (await engine.tokenize(prompt)).token_ids[-2]
        sampling = SamplingParams(max_tokens=3, logit_bias={over: 100.0})
        events = [
            event async for event in engine.generate(GenerationRequest(model="t", prompt=prompt, sampling=sampling))
        ]
    assert [(event.reason) for event in events if isinstance(event, Finished)] == ["stop"]


async def test_the_fingerprint_stays_over_restarts_and_changes_with_each_thing_that_changes_answers(
    options: EngineOptions, tmp_path: Path
) -> None:
    other_weights = write_tiny_model(tmp_path / "other.gguf", seed=1)
    changed = msgspec.structs.replace
    first = await fingerprint(options)
    same = [
        options,
        changed(options, kv_cache_tokens=512),
        changed(options, model_path=str(write_tiny_model(tmp_path / "same.gguf"))),
    ]
    assert {await fingerprint(one) for one in same} == {first}
    different = [
        changed(options, model_path=str(other_weights)),
        changed(options, chat_template="{{ messages[0].content }}"),
        changed(options, reproducible=True),
        changed(options, tool_format="mistral"),
    ]
    assert len({first, *[await fingerprint(one) for one in different]}) == 5


async def test_a_set_tool_format_is_reported_and_enforced(options: EngineOptions, tmp_path: Path) -> None:
    metadata = {"llama.context_length": 4096, "tokenizer.ggml.add_space_prefix": False}
    model = write_tiny_model(tmp_path / "long.gguf", vocabulary=metadata)
    options = msgspec.structs.replace(
        options, model_path=str(model), kv_cache_tokens=4096, chat_template=HERMES, tool_format="qwen3_coder"
    )
    tool = Tool("f", parameters={"type": "object", "properties": {"a": {"const": 12}}, "required": ["a"]})
    prompt = ChatPrompt(messages=(Message(role="user", content="Hi"),), tools=ToolOptions((tool,), "named", "f"))
    async with running(options) as engine:
        events = [event async for event in engine.generate(GenerationRequest(model="tiny", prompt=prompt))]
        assert engine.tool_format == "qwen3_coder"
    deltas = [event for event in events if isinstance(event, ToolCallDelta)]
    assert (deltas[0].name, "".join(delta.arguments for delta in deltas)) == ("f", '{"a": 12}')


def test_a_tool_format_that_does_not_fit_the_template_stops_the_start(options: EngineOptions) -> None:
    with starting(msgspec.structs.replace(options, tool_format="harmony")) as process:
        assert process.stdout is not None
        failed = next(line for line in process.stdout if line.startswith(b"failed "))
        assert failed.endswith(b"cannot be served: tool_format harmony needs a chat template with channels\n")
        assert process.wait(EXIT_SECONDS) == 2


async def test_only_what_the_options_name_is_shared_among_owners(options: EngineOptions) -> None:
    shared, secret = "Once upon a time there was a library", ", whose door code is 123456"
    options = msgspec.structs.replace(options, host_cache_tokens=256, shared_prefixes=(shared,))
    sampling = SamplingParams(temperature=0, max_tokens=1)

    async def cached_tokens(text: str, owner: str) -> int:
        request = GenerationRequest(model="tiny", prompt=TextPrompt(text), sampling=sampling, owner=owner)
        [usage] = [event async for event in engine.generate(request) if isinstance(event, Usage)]
        return usage.cached_tokens

    async with running(options) as engine:
        assert await cached_tokens(shared + secret, "alice") == 0
        found = await cached_tokens(shared + secret, "bob")
        assert 0 < found <= await engine.count_tokens(TextPrompt(shared))
        assert await cached_tokens(secret, "carol") == 0
        assert await cached_tokens(secret, "dave") == 0
        assert await cached_tokens(secret, "carol") == await engine.count_tokens(TextPrompt(secret)) - 1


async def test_an_engine_whose_folder_was_removed_puts_its_socket_and_registry_back(options: EngineOptions) -> None:
    socket_path = Path(options.socket_path)
    registry = registry_path(socket_path)
    async with running(options), asyncio.timeout(TEST_TIMEOUT_SECONDS):
        for path in (socket_path, registry):
            await asyncio.to_thread(path.unlink)
        later = LlamaEngine(socket_path)
        await later.start()
        while not later.ready:
            await asyncio.to_thread(os.sched_yield)
        assert await later.count_tokens(TextPrompt("Once"))
        assert await asyncio.to_thread(registry.exists)
        await later.close()


async def test_a_rewritten_model_answers_and_has_a_fingerprint_of_its_own(
    options: EngineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    notices: list[str] = []
    copy = faster_file(Path(options.model_path), progress=False, notify=notices.append)
    assert "rewrote tiny.gguf (Q4_1)" in notices[0]
    rewritten = msgspec.structs.replace(options, model_path=str(copy))
    assert await answer(rewritten)
    assert await fingerprint(rewritten) != await fingerprint(options)


async def test_formats_of_the_same_weights_have_different_fingerprints(options: EngineOptions, tmp_path: Path) -> None:
    precise = write_tiny_model(tmp_path / "precise.gguf", kind=Type.F32)
    assert await fingerprint(msgspec.structs.replace(options, model_path=str(precise))) != await fingerprint(options)


async def test_keywords_that_are_not_enforced_come_before_the_answer(options: EngineOptions) -> None:
    """A process, since it sends them apart from its steps."""
    schema = {"type": "object", "contains": {"type": "null"}}
    request = GenerationRequest(
        model="tiny",
        prompt=TextPrompt("a"),
        sampling=SamplingParams(max_tokens=2),
        response_format=JsonSchemaFormat(schema, strict=False),
    )
    async with running(options) as engine, contextlib.aclosing(engine.generate(request)) as events:
        assert await anext(events) == Unenforced(0, ["'contains' at #"])


async def test_a_process_resumes_an_answer_of_another_and_refuses_invalid_resume_tokens(options: EngineOptions) -> None:
    request = GenerationRequest(
        model="tiny", prompt=TextPrompt("Once"), sampling=SamplingParams(max_tokens=12, ignore_eos=True, seed=3)
    )
    changed = msgspec.structs.replace
    options = changed(options, reproducible=True)

    async def events(engine: LlamaEngine, request: GenerationRequest) -> list[Event]:
        return [event async for event in engine.generate(request)]

    async with running(options) as engine:
        unbroken = await events(engine, request)
    tokens = tuple(token for event in unbroken if isinstance(event, Delta) for token in event.token_ids)
    assert len(tokens) == 12
    async with running(options) as engine:
        for wrong in [(), ()], [(10**6,)], [(-1,)], [(*tokens, 1)]:
            with pytest.raises(BadRequest) as caught:
                await events(engine, changed(request, resume_token_ids=tuple(wrong)))
            assert caught.value.parameter == "resume_token_ids"
        with pytest.raises(BadRequest, match="log-probabilities"):
            await events(engine, changed(request, resume_token_ids=(tokens[:1],), logprobs=0))
        for cut in (1, 7, 12):
            continued = await events(engine, changed(request, resume_token_ids=(tokens[:cut],)))
            assert continued[:-1] == unbroken[:-1]
            assert isinstance(continued[-1], Usage)
            assert continued[-1].completion_tokens == 12


async def test_the_requests_of_a_worker_that_is_gone_are_cancelled(options: EngineOptions) -> None:
    """A process, since the end of a connection to its socket is what cancels them."""
    options = msgspec.structs.replace(options, max_waiting=64)
    sampling = SamplingParams(max_tokens=200, ignore_eos=True)

    async def answer(engine: LlamaEngine, priority: int) -> None:
        prompt = TextPrompt("Once")
        request = GenerationRequest(model="tiny", prompt=prompt, sampling=sampling, priority=priority)
        async for _ in engine.generate(request):
            pass

    async with running(options) as other:
        worker = LlamaEngine(Path(options.socket_path))
        await worker.start()
        answers = [asyncio.create_task(answer(worker, 1)) for _ in range(64)]
        await other.count_tokens(TextPrompt("Once"))  # Waits for the connection.
        while (await other.statistics()).waiting < 32:
            pass
        await worker.close()
        await answer(other, 0)
        left = await other.statistics()
        assert left.waiting == 0, "otherwise most of them would still wait"
        assert left.resident_bytes > 2**20, "a process with a model takes more"
        for each in answers:
            each.cancel()
        await asyncio.gather(*answers, return_exceptions=True)


def test_a_process_whose_parent_dies_while_the_model_loads_ends_by_itself(options: EngineOptions) -> None:
    with starting(options) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        assert process.wait(EXIT_SECONDS) == 0


def test_a_process_that_cannot_report_that_it_is_ready_ends_by_itself(options: EngineOptions) -> None:
    with starting(options) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(EXIT_SECONDS) == 0


def test_a_process_that_cannot_report_why_it_failed_ends_all_the_same(options: EngineOptions) -> None:
    with starting(msgspec.structs.replace(options, model_path="/absent.gguf")) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(EXIT_SECONDS) == 2


def test_a_process_that_loads_its_model_ends_on_sigterm(options: EngineOptions, tmp_path: Path) -> None:
    endless = tmp_path / "endless.gguf"
    os.mkfifo(endless)
    with starting(msgspec.structs.replace(options, model_path=str(endless))) as process, writer_of(endless):
        process.terminate()
        assert process.wait(EXIT_SECONDS) == -signal.SIGTERM


@contextlib.contextmanager
def writer_of(pipe: Path) -> Iterator[None]:
    """Wait until a process reads the named pipe, then keep it waiting for data until the end of the block."""
    deadline = time.monotonic() + TEST_TIMEOUT_SECONDS
    while True:
        try:
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:
            assert time.monotonic() < deadline, "no process has opened the pipe"
            time.sleep(0.01)
    yield
    os.close(writer)


async def test_a_prefix_on_disk_gives_the_answer_that_computing_it_gives(
    options: EngineOptions, tmp_path: Path
) -> None:
    # Only a process can be started again, and only llama.cpp reads its own cells.
    model = write_tiny_model(tmp_path / "long.gguf", vocabulary={"llama.context_length": 4096})
    options = msgspec.structs.replace(
        options,
        model_path=str(model),
        kv_cache_tokens=2048,
        host_cache_tokens=2048,
        reproducible=True,
        saved_prefixes=SavedPrefixOptions(folder=str(tmp_path / "prefixes"), max_bytes=2**30, owners={"": ""}),
    )

    async def ask(engine: LlamaEngine, tokens: tuple[int, ...], cache_salt: str = "") -> tuple[tuple[int, ...], int]:
        sampling = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        request = GenerationRequest(model="tiny", prompt=TokenPrompt(tokens), sampling=sampling, cache_salt=cache_salt)
        events = [event async for event in engine.generate(request)]
        [usage] = [event for event in events if isinstance(event, Usage)]
        answered = [token for event in events if isinstance(event, Delta) for token in event.token_ids]
        return tuple(answered), usage.cached_tokens

    document = tuple(3 + number % 50 for number in range(600))
    async with running(options) as engine:
        answered, _ = await ask(engine, document)
        continued = (*document, *answered, 5, 6)
        computed, shared = await ask(engine, continued, "another salt")
        assert shared == 0
    async with running(options) as engine:
        restored, shared = await ask(engine, continued)
        assert shared == len(document) + len(answered) - 1
        assert restored == computed
        statistics = await engine.statistics()
        assert (statistics.saved_prefix_hits, statistics.saved_prefix_tokens) == (1, shared)
