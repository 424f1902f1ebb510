"""What the step loop needs of a model in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from dragoman.engines.llama.arrays import Logits, SequenceState, TokenArray
from dragoman.engines.llama.native.libraries.binding import MAX_SEQUENCE_IDS

NO_ADAPTER = 0
"""The number of the base model alone. No two adapters ever have the same number."""

SEQUENCE_IDS = MAX_SEQUENCE_IDS - 2
"""Sequences may have the ids from 0 to SEQUENCE_IDS - 1."""


class Chunk(NamedTuple):
    """Consecutive tokens of one sequence to decode in this step."""

    sequence_id: int
    position: int
    """The position of the first token."""
    tokens: TokenArray
    outputs: int
    """The number of tokens, counted from the last one back, whose logits are needed."""


class DecodeError(Exception):
    """llama_decode rejected a batch that the KV cell allocator allowed. The engine's state is no longer known."""


class Backend(Protocol):
    """Decoding, sharing and forgetting. Not thread-safe: one thread owns it."""

    @property
    def vocabulary_size(self) -> int:
        """Number of logits in a row."""
        ...

    @property
    def cells(self) -> int:
        """KV cells there are; one holds one token of one or several sequences."""
        ...

    @property
    def reuses_cells(self) -> bool:
        """Whether a cell can be taken again as soon as it is forgotten, and not only after `sweep`."""
        ...

    def decode(self, chunks: Sequence[Chunk], adapter: int = NO_ADAPTER) -> Logits:
        """Decode all chunks in one batch; returns float32[outputs of all, vocabulary], in their order.

        The array is valid until the next decode. Raises DecodeError.
        """
        ...

    def load_adapter(self, path: Path, scale: float) -> int:
        """Load an adapter file; returns the number to decode with. Raises ModelError when it does not fit."""
        ...

    def unload_adapter(self, adapter: int) -> None:
        """Free it. The caller made sure that nothing will be decoded with it."""
        ...

    def share(self, source: int, target: int, start: int, end: int) -> None:
        """Let `target` go on with the cells of `source` from position `start` to `end`, by reference."""
        ...

    def save(self, sequence_id: int) -> SequenceState:
        """A copy of the sequence's cells in main memory."""
        ...

    def restore(self, sequence_id: int, state: SequenceState, adapter: int = NO_ADAPTER) -> bool:
        """Give an empty sequence the cells that were saved, at their positions; False: it could not be done.

        They were computed with `adapter`.
        """
        ...

    def forget(self, sequence_id: int) -> None:
        """Take the sequence out of all its cells."""
        ...

    def sweep(self) -> None:
        """Make cells free that nobody refers to. Called only when that is so of all of them."""
        ...
