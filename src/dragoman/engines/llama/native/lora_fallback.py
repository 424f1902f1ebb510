"""A backend for models whose library cannot use LoRA adapters: another library computes sequences with adapters."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dragoman.engines.llama.arrays import Logits, SequenceState
from dragoman.engines.llama.native.backend import NO_ADAPTER, Backend, Chunk


class LoraFallbackBackend:
    """Two backends of one model: the primary one for sequences without an adapter, the fallback for those with one.

    The fallback is opened, and takes memory, when the first adapter is loaded.
    """

    reuses_cells = True

    def __init__(self, primary: Backend, open_fallback: Callable[[], Backend]) -> None:
        """`open_fallback` makes a backend with the same number of cells. It raises ModelError or LibraryError."""
        self._primary = primary
        self._open_fallback = open_fallback
        self._fallback: Backend | None = None
        self._fallback_sequence_ids: set[int] = set()
        """The ids of sequences in the fallback."""
        self.vocabulary_size = primary.vocabulary_size
        self.cells = primary.cells

    def decode(self, chunks: Sequence[Chunk], adapter: int = NO_ADAPTER) -> Logits:
        if adapter != NO_ADAPTER:
            self._fallback_sequence_ids.update(chunk.sequence_id for chunk in chunks)
        return self._backend_for_adapter(adapter).decode(chunks, adapter)

    def load_adapter(self, path: Path, scale: float) -> int:
        if self._fallback is None:
            self._fallback = self._open_fallback()
        return self._fallback.load_adapter(path, scale)

    def unload_adapter(self, adapter: int) -> None:
        self._backend_for_adapter(adapter).unload_adapter(adapter)

    def share(self, source: int, target: int, start: int, end: int) -> None:
        if source in self._fallback_sequence_ids:
            self._fallback_sequence_ids.add(target)
        self._backend_for_sequence(source).share(source, target, start, end)

    def save(self, sequence_id: int) -> SequenceState:
        return self._backend_for_sequence(sequence_id).save(sequence_id)

    def restore(self, sequence_id: int, state: SequenceState, adapter: int = NO_ADAPTER) -> bool:
        restored = self._backend_for_adapter(adapter).restore(sequence_id, state, adapter)
        if restored and adapter != NO_ADAPTER:
            self._fallback_sequence_ids.add(sequence_id)
        return restored

    def forget(self, sequence_id: int) -> None:
        self._backend_for_sequence(sequence_id).forget(sequence_id)
        self._fallback_sequence_ids.discard(sequence_id)

    def sweep(self) -> None:
        self._primary.sweep()

    def _backend_for_adapter(self, adapter: int) -> Backend:
        if adapter == NO_ADAPTER:
            return self._primary
        assert self._fallback is not None, "loading the first adapter has opened the fallback"
        return self._fallback

    def _backend_for_sequence(self, sequence_id: int) -> Backend:
        fallback = self._fallback if sequence_id in self._fallback_sequence_ids else None
        return fallback or self._primary
