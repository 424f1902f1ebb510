"""Engines with the simulated model that save prefixes, and are started again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.batching.host_cache import HostSegment, SharingScope
from dragoman.engines.llama.batching.sequence import RequestKey
from dragoman.engines.llama.native.backend import NO_ADAPTER
from dragoman.engines.llama.saved.prefix_store import PrefixStore, SavedScope
from tests.support.batching import BatcherHarness
from tests.support.simulated_backend import ALL_TOKENS

MAX_BYTES = 2**30


def tokens_of(prompt: Sequence[int]) -> TokenArray:
    return np.array(prompt, dtype=np.int32)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def total(folder: Path) -> int:
    """Return the size of all files."""
    return sum(path.stat().st_size for path in files(folder))


def open_store(folder: Path, *, fingerprint: str = "model", max_bytes: int = MAX_BYTES, **options: Any) -> PrefixStore:
    return PrefixStore(folder, fingerprint, max_bytes=max_bytes, **options)


def segment(prompt: Sequence[int], *, start: int = 0, owner: str = "", state_bytes: int = 1000) -> HostSegment:
    """A segment of cells that no model has computed."""
    state = np.arange(state_bytes, dtype=np.uint32).astype(np.uint8)
    return HostSegment(SharingScope(NO_ADAPTER, owner, ""), tokens_of(prompt), start, state, 0)


def save(store: PrefixStore, *chain: HostSegment, adapter: str = "") -> None:
    """Save the segments of a sequence."""
    store.save([(SavedScope.of(one.scope, one.scope.owner, adapter), one) for one in chain], lambda: False)


def load(
    store: PrefixStore, prompt: Sequence[int], *, owner: str = "", adapter: str = "", max_tokens: int = 10**6
) -> list[HostSegment]:
    """Return what is read for a prompt."""
    tokens = tokens_of(prompt)
    scope = SharingScope(NO_ADAPTER, owner, "")
    saved = SavedScope.of(scope, owner, adapter)
    return store.load(saved, scope, tokens, max_tokens).segments if store.may_hold(saved, tokens) else []


class RestartedEngine(BatcherHarness):
    """A batcher that saves in its idle time, and reads before it adds a request. Owners' names last."""

    def __init__(self, folder: Path, *, divisible_tokens: int = ALL_TOKENS, reuses_cells: bool = True, **options: Any):
        self.store = open_store(
            folder,
            divisible_tokens=None if divisible_tokens >= ALL_TOKENS else divisible_tokens,
            whole_only=not reuses_cells,
        )
        super().__init__(saver=self, divisible_tokens=divisible_tokens, reuses_cells=reuses_cells, **options)

    def offer(self, chain: Sequence[HostSegment]) -> bool:
        save(self.store, *chain)
        return True

    def ask(
        self, prompt: list[int], *, owner: str = "", cache_salt: str = "", public_tokens: int = 0, limit: int = 1
    ) -> RequestKey:
        """Answer a request, and save what is then in memory."""
        scope = SharingScope(NO_ADAPTER, owner, cache_salt, public_tokens)
        saved = SavedScope.of(scope, owner, "")
        if self.store.may_hold(saved, tokens_of(prompt)):
            restored = self.store.load(saved, scope, tokens_of(prompt), self.batcher.cache.host_cache.limit)
            self.batcher.restore_segments(restored.segments)
        key = self.add(prompt, limit, owner=owner, cache_salt=cache_salt, public_tokens=public_tokens)
        self.run()
        while self.batcher.use_idle_time():
            pass
        return key

    def cached_tokens(self, key: RequestKey) -> int:
        usage = self.answers[key].usage
        assert usage is not None
        return usage.cached_tokens
