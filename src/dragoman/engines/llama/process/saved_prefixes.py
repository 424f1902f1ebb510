"""Saved prefixes in an engine process: one thread writes them, one reads them before a request that needs some starts.

The stepper's thread only puts references into queues.
"""

import asyncio
import contextlib
import hashlib
import platform
import queue
import threading
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from dragoman import __version__
from dragoman.core import logs
from dragoman.core.context import ACCOUNT_OWNER_PREFIX
from dragoman.core.errors import ModelNotFound
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.batching.host_cache import HostSegment, SharingScope
from dragoman.engines.llama.batching.sequence import EngineRequest
from dragoman.engines.llama.native.backend import Backend, DecodeError
from dragoman.engines.llama.native.libraries.choice import cpu_flags
from dragoman.engines.llama.process.served_adapters import AdapterManager
from dragoman.engines.llama.saved.prefix_budget import SavedPrefixStatistics
from dragoman.engines.llama.saved.prefix_store import MIN_RESTORED_TOKENS, PrefixStore, SavedScope
from dragoman.engines.llama.wire.options import EngineOptions, SavedPrefixOptions

_MAX_QUEUED_CHAINS = 8
"""Sequences that wait to be written. They keep their memory as long as that."""

_OPENING_SECONDS = 0.5
"""How long the first requests wait for the model's fingerprint. It is known at once if the file was served before."""

_READING_SECONDS = 10.0
"""How long a request waits for files. After that it computes what they have."""

_EXIT_SECONDS = 3.0
"""How long the end of the process waits for files. The supervisor waits for 5 seconds."""

_log = logs.get_logger(__name__)


class OptionalWork(Protocol):
    """A batcher, as far as it offers its segments."""

    def use_idle_time(self) -> bool:
        """Do one piece of optional work. False if there is none."""
        ...


class SegmentTaker(Protocol):
    """A stepper, as far as it takes what was read. Its methods may be called from any thread."""

    def restore_segments(self, segments: Sequence[HostSegment]) -> None:
        """Put segments into host memory before the next step."""
        ...

    def wake(self) -> None:
        """Let the thread look for optional work again."""
        ...


class PrefixQuery(NamedTuple):
    """A request whose prefix may be on disk."""

    scope: SharingScope
    saved: SavedScope
    tokens: TokenArray


def cells_fingerprint(digests: Sequence[str], options: EngineOptions) -> str:
    """Return a text that differs if anything does that determines the content of KV cells.

    `digests`: of the files of the model and the libraries. Another processor rounds otherwise.
    """
    parts = (
        __version__,
        digests,
        options.kv_cache_tokens,
        options.reproducible,
        platform.machine(),
        sorted(cpu_flags()),
    )
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


class SavedPrefixes:
    """Implements batching.host_cache.SegmentSaver, whose `offer` the stepper's thread calls."""

    def __init__(
        self, options: SavedPrefixOptions, adapters: AdapterManager, backend: Backend, host_cache_tokens: int
    ) -> None:
        self._options = options
        self._adapters = adapters
        self._whole_only = not backend.reuses_cells
        self._divisible_tokens = backend.divisible_tokens if backend.divisible_tokens < backend.cells else None
        self._host_cache_tokens = host_cache_tokens
        self._store: PrefixStore | None = None
        self._opened = asyncio.Event()
        """Set when the store is open, or never will be."""
        self._queue: queue.Queue[Sequence[tuple[SavedScope, HostSegment]] | None] = queue.Queue(_MAX_QUEUED_CHAINS)
        self._refused_chain = False
        """Whether the stepper found the queue full and waits to be woken."""
        self._deadline: float | None = None
        """When the process gives up writing. None: it goes on."""
        self._writer = threading.Thread(target=self._write, name="prefix writer", daemon=True)
        self._reader = ThreadPoolExecutor(1, "prefix reader")
        self._taker: SegmentTaker | None = None
        self._batcher: OptionalWork | None = None
        self._hits = self._tokens = 0

    def connect(self, taker: SegmentTaker, batcher: OptionalWork) -> None:
        """Give what is read to this stepper. Its batcher offers what is written."""
        self._taker, self._batcher = taker, batcher

    async def open(self, fingerprint: str | None) -> None:
        """Open the folder, now that the fingerprint is known. None: it could not be computed."""
        if fingerprint is not None:
            open_store = partial(
                PrefixStore,
                Path(self._options.folder),
                fingerprint,
                max_bytes=self._options.max_bytes,
                divisible_tokens=self._divisible_tokens,
                whole_only=self._whole_only,
            )
            try:
                self._store = await asyncio.to_thread(open_store)
            except OSError as error:
                _log.warning("saved_prefixes_unavailable", folder=self._options.folder, reason=str(error))
            else:
                self._writer.start()
                if self._taker is not None:
                    self._taker.wake()
        self._opened.set()

    def statistics(self) -> SavedPrefixStatistics:
        """What was read since the process started, and the state of the folder."""
        store = self._store
        return SavedPrefixStatistics(
            hits=self._hits,
            tokens=self._tokens,
            evictions=0 if store is None else store.budget.evictions,
            bytes=0 if store is None else store.budget.bytes,
        )

    def offer(self, chain: Sequence[HostSegment]) -> bool:
        if self._store is None:
            return False
        scoped: list[tuple[SavedScope, HostSegment]] = []
        for segment in chain:
            saved = self._saved_scope(segment.scope)
            if saved is None:
                return True  # It is not to be saved.
            scoped.append((saved, segment))
        timeout = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        try:
            self._queue.put(scoped, block=timeout is not None, timeout=timeout)
        except queue.Full:
            self._refused_chain = True
            return False
        return True

    def query(self, request: EngineRequest, adapter: str | None) -> PrefixQuery | None:
        """Return what to read for a request before it starts. None: nothing. It takes some microseconds.

        `adapter`: its qualified name.
        """
        tokens = request.prompt
        if len(tokens) < MIN_RESTORED_TOKENS or request.images or request.prompt_top is not None:
            return None
        try:
            number = self._adapters.number_of(adapter)
        except ModelNotFound:
            return None
        scope = SharingScope(number, request.owner, request.cache_salt, request.public_tokens)
        saved, store = self._saved_scope(scope), self._store
        if saved is None or (self._opened.is_set() if store is None else not store.may_hold(saved, tokens)):
            return None
        return PrefixQuery(scope, saved, tokens)

    async def restore(self, query: PrefixQuery) -> None:
        """Read what the request needs into host memory, before it is added to the stepper."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_OPENING_SECONDS):
                await self._opened.wait()
            async with asyncio.timeout(_READING_SECONDS):
                await loop.run_in_executor(self._reader, self._read, query)
        except TimeoutError:
            return

    async def finish(self, stepping: Awaitable[None]) -> None:
        """Wait for the end of the stepper's thread, and save what it has left, within some seconds. Raises DecodeError.

        If the model's state was lost, what was read may be the reason, and is deleted.
        """
        try:
            await stepping
        except DecodeError:
            if self._store is not None:
                self._store.discard_read()
            raise
        await asyncio.to_thread(self._save_remaining)

    def _save_remaining(self) -> None:
        if self._store is None or self._batcher is None:
            return
        deadline = self._deadline = time.monotonic() + _EXIT_SECONDS
        while time.monotonic() < deadline and self._batcher.use_idle_time():
            pass
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=max(0.0, deadline - time.monotonic()))
            self._writer.join(max(0.0, deadline - time.monotonic()))

    def _read(self, query: PrefixQuery) -> None:
        if self._store is None or self._taker is None:
            return
        restored = self._store.load(query.saved, query.scope, query.tokens, self._host_cache_tokens)
        if restored.segments:
            self._hits += 1
            self._tokens += restored.tokens
            self._taker.restore_segments(restored.segments)

    def _write(self) -> None:
        """Write what was offered. The body of the writer's thread."""
        store = self._store
        assert store is not None, "the thread starts when the store is open"
        while (chain := self._queue.get()) is not None:
            store.save(chain, self._is_stopped)
            if self._refused_chain and self._taker is not None:
                self._refused_chain = False
                self._taker.wake()

    def _is_stopped(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _saved_scope(self, scope: SharingScope) -> SavedScope | None:
        """Return the scope in words that last. None: there are none, and its cells are not saved."""
        content = self._adapters.content_of(scope.adapter)
        if content is None:
            return None
        if scope.owner.startswith(ACCOUNT_OWNER_PREFIX):
            return SavedScope.of(scope, f"{self._options.accounts} {scope.owner}", content)
        owner = self._options.owners.get(scope.owner)
        return (
            None if owner is None and not SavedScope.is_of_file(scope) else SavedScope.of(scope, owner or "", content)
        )


def saved_prefixes(options: EngineOptions, adapters: AdapterManager, backend: Backend) -> SavedPrefixes | None:
    """Return what saves the prefixes of a model. None: the options want none."""
    if options.saved_prefixes is None:
        return None
    return SavedPrefixes(options.saved_prefixes, adapters, backend, options.host_cache_tokens)
