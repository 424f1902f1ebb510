"""The backends over llama.cpp: one context of a model, two or more, and those with a second library for adapters."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from dragoman.engines.llama.arrays import Logits, SequenceState
from dragoman.engines.llama.native.backend import NO_ADAPTER, OWN_SEQUENCE_IDS, Backend, Chunk, DecodeError
from dragoman.engines.llama.native.context import EMPTY_STATE, LlamaContext
from dragoman.engines.llama.native.libraries.binding import MAX_SEQUENCE_IDS, ContextOptions
from dragoman.engines.llama.native.lora import LoraAdapter
from dragoman.engines.llama.native.lora_probe import require_numbers
from dragoman.engines.llama.native.model import Model, ModelError
from dragoman.engines.llama.native.partitioned_decoder import PartitionedDecoder
from dragoman.engines.llama.native.resident_memory import available_bytes, new_zeros_released
from dragoman.engines.llama.weights.cell_size import CellSize

_PREFILL_CONTEXT_STEPS = 4
"""The number of prefill steps that fit into the prefill context."""

_MIN_MOVED_TOKENS = 17
"""A chunk with at least this number of tokens is computed in the prefill context. Few decode steps have one."""

_MAX_COPIED_PER_COMPUTED = 4
"""The most computed tokens that are copied for each token to compute."""

_PARTITION_BATCH_TOKENS = 64
"""Of a partition except the first. Decode steps have no more, and buffers grow with cells times tokens."""

_SPARE_MEMORY = 2
"""Another partition is opened if so many times the bytes of all partitions but the first are available.

What is opened takes memory when it is used, and none of them may have been.
"""

_ALL = 2**31 - 1
"""More tokens than any sequence has."""


def _divisible_tokens(model: Model) -> int:
    if model.has_recurrent_state:
        return 0
    return model.sliding_window - 1 if model.sliding_window else _ALL


class SingleContextBackend:
    """One llama_context, which holds and computes all sequences."""

    partitions = 1
    step_cells = 0

    def __init__(self, model: Model, options: ContextOptions) -> None:
        """Allocate the cache and the compute buffers. Raises ModelError when there is no memory for them."""
        self._main_context = LlamaContext(model, options)
        # Attention sums in the order of the cells. llama.cpp fills the first free ones, so that the cells of a sequence
        # are in the order of its tokens only as long as no cell is used for the second time.
        self.reuses_cells = not options.reproducible
        self.divisible_tokens = _divisible_tokens(model)
        self.vocabulary_size = model.vocabulary.size
        self.cells = self._main_context.cells
        self.sequence_ids = options.sequence_ids - OWN_SEQUENCE_IDS
        self._transfer_id = self.sequence_ids
        """The id of cells that are moved from one context to another."""
        self._spent_id = self.sequence_ids + 1
        """The id that holds forgotten cells, so that they are not used again where that matters."""
        self._contexts = [self._main_context]
        self._model = model
        self._threads = options.threads
        self._adapters: dict[int, LoraAdapter] = {}
        self._last_adapter_number = NO_ADAPTER

    def decode(self, chunks: Sequence[Chunk], adapter: int = NO_ADAPTER) -> Logits:
        loaded = None if adapter == NO_ADAPTER else self._adapters[adapter]
        chunks = self._without_images(chunks, loaded)
        if not chunks:
            return np.empty((0, self.vocabulary_size), dtype=np.float32)
        logits = self._decode(chunks, loaded)
        # Such a sequence's cells spoil others, even when they are free again: many kernels multiply what must not be
        # seen by zero rather than leave it out. One logit of a row tells: each is a sum over the whole last layer.
        is_number = logits.item(0) == logits.item(0) if len(logits) == 1 else not np.isnan(logits[:, 0]).any()
        if not is_number:
            raise DecodeError(f"{self._model.library.pinned} computed logits that are no numbers")
        return logits

    def _without_images(self, chunks: Sequence[Chunk], adapter: LoraAdapter | None) -> Sequence[Chunk]:
        """Compute the images among the chunks, and return the others."""
        images = [chunk for chunk in chunks if chunk.image is not None]
        if not images:
            return chunks
        for chunk in images:
            assert chunk.image is not None
            context = self._context_of(chunk.sequence_id)
            context.set_adapter(adapter)
            context.decode_image(chunk, chunk.image)
        return [chunk for chunk in chunks if chunk.image is None]

    def _decode(self, chunks: Sequence[Chunk], adapter: LoraAdapter | None) -> Logits:
        self._main_context.set_adapter(adapter)
        return self._main_context.decode(chunks)

    def _context_of(self, sequence_id: int) -> LlamaContext:  # noqa: ARG002
        """Return the context that holds the cells of a sequence."""
        return self._main_context

    def place(self, sequence_id: int, partition: int) -> int:  # noqa: ARG002
        return 0

    def load_adapter(self, path: Path, scale: float) -> int:
        loaded = LoraAdapter(self._model, path, scale)
        try:
            require_numbers(self._model, loaded, path.name, self._threads)
        except ModelError:
            loaded.close()
            raise
        self._last_adapter_number += 1
        self._adapters[self._last_adapter_number] = loaded
        return self._last_adapter_number

    def unload_adapter(self, adapter: int) -> None:
        for context in self._contexts:
            context.set_adapter(None)
        self._adapters.pop(adapter).close()

    def can_share(self, sequence_id: int, length: int) -> bool:
        if self.divisible_tokens == _ALL:
            return True
        # The token after them attends to as many before it, or goes on from the state of the last one.
        needed = max(1, self.divisible_tokens)
        return self._context_of(sequence_id).first_position(sequence_id) <= max(0, length - needed)

    def share(self, source: int, target: int, start: int, end: int) -> None:
        self._main_context.share(source, target, start, end)

    def forget(self, sequence_id: int) -> None:
        self.truncate(sequence_id, 0)

    def truncate(self, sequence_id: int, length: int) -> None:
        if not self.reuses_cells:
            self._main_context.share(sequence_id, self._spent_id, length, -1)
        self._context_of(sequence_id).truncate(sequence_id, length)

    def sweep(self) -> None:
        self._main_context.forget(self._spent_id)

    def save(self, sequence_id: int) -> SequenceState:
        return self._context_of(sequence_id).save(sequence_id)

    def restore(self, sequence_id: int, state: SequenceState, adapter: int = NO_ADAPTER) -> bool:  # noqa: ARG002
        return self._context_of(sequence_id).restore(sequence_id, state)

    def close(self) -> None:
        """Free the caches, the buffers and the adapters."""
        for adapter in list(self._adapters):
            self.unload_adapter(adapter)
        for context in reversed(self._contexts):
            context.close()


class LlamaBackend(SingleContextBackend):
    """Two llama_contexts of one model: the main one holds all sequences, and the other computes prompts.

    For each token, llama.cpp's attention passes over all cells up to the highest used one. Beside many running
    sequences this costs a prompt more than moving its cells; benchmarks/README.md has the measurement.

    Only what can be divided can be moved, so that a model with a recurrent state is for SingleContextBackend.
    """

    def __init__(self, model: Model, options: ContextOptions) -> None:
        """Allocate the caches and the compute buffers. Raises ModelError when there is no memory for them."""
        options = msgspec.structs.replace(options, sequence_ids=MAX_SEQUENCE_IDS)
        super().__init__(model, options)
        separate = min(options.context_cells, _PREFILL_CONTEXT_STEPS * options.batch_tokens)
        self._transfer_buffer = EMPTY_STATE
        """Memory for moving cells, kept since allocating it each time costs more than copying."""
        self._prefill_context = LlamaContext(model, msgspec.structs.replace(options, context_cells=separate))
        self._contexts.append(self._prefill_context)

    def _decode(self, chunks: Sequence[Chunk], adapter: LoraAdapter | None) -> Logits:
        separate = self._select_for_prefill_context(chunks)
        if not separate:
            return self._decode_where_held(chunks, adapter)
        self._prefill_context.set_adapter(adapter)
        logits = self._decode_in_prefill_context([chunks[index] for index in separate])
        if len(separate) == len(chunks):
            return logits
        rest = [index for index in range(len(chunks)) if index not in separate]
        held = self._decode_where_held([chunks[index] for index in rest], adapter)
        order = [index for index in (*separate, *rest) for _ in range(chunks[index].outputs)]
        return np.concatenate((logits, held))[np.argsort(order, kind="stable")]

    def _decode_where_held(self, chunks: Sequence[Chunk], adapter: LoraAdapter | None) -> Logits:
        """Decode chunks in the context that holds their sequences."""
        return super()._decode(chunks, adapter)

    def _select_for_prefill_context(self, chunks: Sequence[Chunk]) -> list[int]:
        free_cells = self._prefill_context.cells
        indices: list[int] = []
        for index, chunk in enumerate(chunks):
            length = len(chunk.tokens)
            cells = chunk.position + length
            if (
                length >= _MIN_MOVED_TOKENS
                and chunk.position <= _MAX_COPIED_PER_COMPUTED * length
                and cells <= min(free_cells, self.divisible_tokens)
            ):
                indices.append(index)
                free_cells -= cells
        return indices

    def _decode_in_prefill_context(self, chunks: Sequence[Chunk]) -> Logits:
        for number, chunk in enumerate(chunks):
            if chunk.position:
                self._move(self._context_of(chunk.sequence_id), chunk.sequence_id, self._prefill_context, number)
        logits = self._prefill_context.decode(
            [chunk._replace(sequence_id=number) for number, chunk in enumerate(chunks)]
        )
        for number, chunk in enumerate(chunks):
            end = chunk.position + len(chunk.tokens)
            self._append_copy(self._prefill_context, number, chunk.sequence_id, chunk.position, end)
            self._prefill_context.forget(number)
        return logits

    def _append_copy(self, source: LlamaContext, source_id: int, target_id: int, start: int, end: int) -> None:
        """Append a copy of the cells from position `start` to `end` to a sequence of another context."""
        target = self._context_of(target_id)
        source.share(source_id, self._transfer_id, start, end)
        self._move(source, self._transfer_id, target, self._transfer_id)
        target.share(self._transfer_id, target_id, start, end)
        target.forget(self._transfer_id)
        source.forget(self._transfer_id)

    def _move(self, source: LlamaContext, source_id: int, target: LlamaContext, target_id: int) -> None:
        state = source.save(source_id, self._transfer_buffer)
        if not target.restore(target_id, state):
            raise DecodeError(f"llama.cpp did not take {len(state)} bytes of KV cells back")
        if len(state) > len(self._transfer_buffer):
            self._transfer_buffer = state


class PartitionedBackend(LlamaBackend):
    """A LlamaBackend with up to `partitions` contexts that hold sequences. They are opened when they are needed.

    Without flash attention, a step takes time for each of its tokens and every cell of the context, whoever's it is.
    benchmarks/README.md has the measurement.
    """

    def __init__(self, model: Model, options: ContextOptions, partitions: int, cell_size: CellSize) -> None:
        """Allocate what LlamaBackend has, which is the first partition. Raises ModelError when there is no memory."""
        super().__init__(model, options)
        self.partitions = partitions
        self.step_cells = cell_size.step_cells
        self._threads = options.threads
        self._partition_bytes = cell_size.bytes * self.cells
        self._partition_options = msgspec.structs.replace(
            options, sequence_ids=MAX_SEQUENCE_IDS, batch_tokens=min(_PARTITION_BATCH_TOKENS, options.batch_tokens)
        )
        self._partition_contexts = [self._main_context]
        self._partition_of = [0] * self.sequence_ids
        self._decoder = PartitionedDecoder(options.threads, partitions, self.step_cells)

    def place(self, sequence_id: int, partition: int) -> int:
        while partition >= len(self._partition_contexts):
            if not self._open_partition():
                partition = 0
        self._partition_of[sequence_id] = partition
        return partition

    def _open_partition(self) -> bool:
        """Open another partition. False if there is no memory for it; then there will never be one."""
        if available_bytes() >= _SPARE_MEMORY * self._partition_bytes * len(self._partition_contexts):
            try:
                with new_zeros_released(self._partition_bytes):
                    context = LlamaContext(self._model, self._partition_options)
            except ModelError:
                pass
            else:
                self._partition_contexts.append(context)
                self._contexts.append(context)
                return True
        self.partitions = len(self._partition_contexts)
        return False

    def _context_of(self, sequence_id: int) -> LlamaContext:
        return self._partition_contexts[self._partition_of[sequence_id]]

    def share(self, source: int, target: int, start: int, end: int) -> None:
        context = self._context_of(source)
        if context is self._context_of(target):
            context.share(source, target, start, end)
        else:
            self._append_copy(context, source, target, start, end)

    def _decode_where_held(self, chunks: Sequence[Chunk], adapter: LoraAdapter | None) -> Logits:
        contexts = [self._context_of(chunk.sequence_id) for chunk in chunks]
        if all(context is self._main_context for context in contexts):
            self._main_context.use_threads(self._threads)
            return super()._decode_where_held(chunks, adapter)
        for context in contexts:
            context.set_adapter(adapter)
        return self._decoder.decode(chunks, contexts)

    def close(self) -> None:
        self._decoder.close()
        super().close()


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
        self.sequence_ids = primary.sequence_ids
        self.divisible_tokens = primary.divisible_tokens
        self.step_cells = primary.step_cells

    @property
    def partitions(self) -> int:
        return self._primary.partitions

    def place(self, sequence_id: int, partition: int) -> int:
        return self._primary.place(sequence_id, partition)

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

    def can_share(self, sequence_id: int, length: int) -> bool:
        return self._backend_for_sequence(sequence_id).can_share(sequence_id, length)

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

    def truncate(self, sequence_id: int, length: int) -> None:
        self._backend_for_sequence(sequence_id).truncate(sequence_id, length)

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
