"""A backend for models whose library cannot use LoRA adapters: what has one is computed by another library."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dragoman.engines.llama.adapters import NO_ADAPTER
from dragoman.engines.llama.backend import Backend
from dragoman.engines.llama.context import Chunk, Logits, State


class AdaptingBackend:
    """Two backends of one model: sequences without an adapter are in one, those with one in the other.

    The other one is opened, and its memory taken, when the first adapter is loaded.
    """

    reuses_cells = True

    def __init__(self, plain: Backend, open_adapted: Callable[[], Backend]) -> None:
        """`open_adapted` makes a backend with as many cells; it raises ModelError or LibraryError."""
        self._plain = plain
        self._open_adapted = open_adapted
        self._adapted: Backend | None = None
        self._with_adapter: set[int] = set()
        """The ids of sequences in the other backend."""
        self.vocabulary_size = plain.vocabulary_size
        self.cells = plain.cells

    def decode(self, chunks: Sequence[Chunk], adapter: int = NO_ADAPTER) -> Logits:
        if adapter != NO_ADAPTER:
            self._with_adapter.update(chunk.sequence_id for chunk in chunks)
        return self._of_adapter(adapter).decode(chunks, adapter)

    def load_adapter(self, path: Path, scale: float) -> int:
        if self._adapted is None:
            self._adapted = self._open_adapted()
        return self._adapted.load_adapter(path, scale)

    def unload_adapter(self, adapter: int) -> None:
        self._of_adapter(adapter).unload_adapter(adapter)

    def share(self, source: int, target: int, start: int, end: int) -> None:
        if source in self._with_adapter:
            self._with_adapter.add(target)
        self._of_sequence(source).share(source, target, start, end)

    def save(self, sequence_id: int) -> State:
        return self._of_sequence(sequence_id).save(sequence_id)

    def restore(self, sequence_id: int, state: State, adapter: int = NO_ADAPTER) -> bool:
        restored = self._of_adapter(adapter).restore(sequence_id, state, adapter)
        if restored and adapter != NO_ADAPTER:
            self._with_adapter.add(sequence_id)
        return restored

    def forget(self, sequence_id: int) -> None:
        self._of_sequence(sequence_id).forget(sequence_id)
        self._with_adapter.discard(sequence_id)

    def sweep(self) -> None:
        self._plain.sweep()

    def _of_adapter(self, adapter: int) -> Backend:
        if adapter == NO_ADAPTER:
            return self._plain
        assert self._adapted is not None, "adapters have numbers only since the first one was loaded"
        return self._adapted

    def _of_sequence(self, sequence_id: int) -> Backend:
        adapted = self._adapted if sequence_id in self._with_adapter else None
        return adapted or self._plain
