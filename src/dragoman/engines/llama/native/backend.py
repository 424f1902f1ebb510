"""What the step loop needs of a model in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from dragoman.engines.llama.arrays import EmbeddingArray, Logits, SequenceState, TokenArray
from dragoman.engines.llama.native.libraries.binding import MAX_SEQUENCE_IDS

NO_ADAPTER = 0
"""The number of the base model alone. No two adapters ever have the same number."""

OWN_SEQUENCE_IDS = 2
"""The last ids of a context, which the backend uses itself."""

SPARE_SEQUENCE_IDS = 2 + OWN_SEQUENCE_IDS
"""The ids of a context beside those of running sequences. The cache uses one to move cells and one to continue."""

SEQUENCE_IDS = MAX_SEQUENCE_IDS - OWN_SEQUENCE_IDS
"""Sequences may have the ids from 0 to SEQUENCE_IDS - 1."""


class ImageEmbeddings(NamedTuple):
    """An image, or one of its tiles, as a model for images describes it."""

    embeddings: EmbeddingArray
    is_causal: bool
    """Whether each part sees only those before it; otherwise each sees all of the image."""
    coordinates: TokenArray | None = None
    """int32[4, tokens]: the positions of a model that has several (M-RoPE), for an image at position 0."""
    positions: int = 0
    """How many positions it takes, if it has coordinates."""

    @property
    def surplus(self) -> int:
        """How many more tokens it has than positions."""
        return 0 if self.coordinates is None else len(self.embeddings) - self.positions


class Chunk(NamedTuple):
    """Consecutive tokens of one sequence to decode in this step."""

    sequence_id: int
    position: int
    """The position of the first token."""
    tokens: TokenArray
    outputs: int
    """The number of tokens, counted from the last one back, whose logits are needed."""
    image: "ImageEmbeddings | None" = None
    """What is computed instead of the tokens, which stand for it. Then no logits are needed."""


class DecodeError(Exception):
    """llama_decode rejected a batch that the KV cell allocator allowed, or its logits are not finite.

    The engine's state is no longer known.
    """


class Backend(Protocol):
    """Decodes tokens, and shares, saves and frees their KV cells. Not thread-safe: one thread owns it."""

    @property
    def vocabulary_size(self) -> int:
        """Number of logits in a row."""
        ...

    @property
    def cells(self) -> int:
        """Number of KV cells. A cell holds one token of one or more sequences."""
        ...

    @property
    def sequence_ids(self) -> int:
        """Sequences may have the ids from 0 to `sequence_ids` - 1."""
        ...

    @property
    def divisible_tokens(self) -> int:
        """The length up to which any part of a sequence can be shared or saved.

        A longer one has cells outside a sliding window, which llama.cpp does not save and uses again. It is saved as a
        whole, and continued from its end or where `can_share` allows it. 0: a recurrent state has no parts at all.
        """
        ...

    @property
    def reuses_cells(self) -> bool:
        """Whether a forgotten cell can be used again immediately, and not only after `sweep`."""
        ...

    @property
    def partitions(self) -> int:
        """Number of partitions of the KV cells: a step passes over the cells of each for its own sequences only.

        Each has room for all cells. It may fall when there is no memory for another one.
        """
        ...

    @property
    def step_cells(self) -> int:
        """What a step of a partition takes besides attention, in cells that one token attends to in that time."""
        ...

    def place(self, sequence_id: int, partition: int) -> int:
        """Let an empty sequence have its cells in this partition. Returns where it has them: there may be no memory."""
        ...

    def decode(self, chunks: Sequence[Chunk], adapter: int = NO_ADAPTER) -> Logits:
        """Decode all chunks in one batch, and return float32[outputs of all, vocabulary] in their order.

        The array is valid until the next decode. Raises DecodeError.
        """
        ...

    def load_adapter(self, path: Path, scale: float) -> int:
        """Load an adapter file and return its number. Raises ModelError when it does not fit the model."""
        ...

    def unload_adapter(self, adapter: int) -> None:
        """Free an adapter. The caller has checked that nothing will be decoded with it."""
        ...

    def can_share(self, sequence_id: int, length: int) -> bool:
        """Whether a sequence could continue after the first `length` tokens of this one."""
        ...

    def share(self, source: int, target: int, start: int, end: int) -> None:
        """Append the cells of `source` from position `start` to `end` to `target`: by reference within a partition."""
        ...

    def save(self, sequence_id: int) -> SequenceState:
        """Copy the sequence's cells to host memory."""
        ...

    def restore(self, sequence_id: int, state: SequenceState, adapter: int = NO_ADAPTER) -> bool:
        """Restore saved cells of `adapter` at their positions in an empty sequence. False if that fails."""
        ...

    def forget(self, sequence_id: int) -> None:
        """Remove the sequence's references to all its cells."""
        ...

    def truncate(self, sequence_id: int, length: int) -> None:
        """Remove the sequence's references to its cells from position `length` on. A recurrent state has none."""
        ...

    def sweep(self) -> None:
        """Free the cells without references. Called only when no cell has references."""
        ...
