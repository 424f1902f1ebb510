"""One llama_context: a unified KV cache and its computation."""

import ctypes
from collections.abc import Callable, Sequence

import numpy as np

from dragoman.engines.llama.arrays import EmbeddingArray, Logits, SequenceState, TokenArray
from dragoman.engines.llama.native.backend import Chunk, DecodeError, ImageEmbeddings
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.lora import LoraAdapter
from dragoman.engines.llama.native.model import Model, ModelError

EMPTY_STATE: SequenceState = np.empty(0, dtype=np.uint8)

_MOVES_WITH_POSITION = np.array([[1], [1], [1], [0]], dtype=np.int32)
"""Of an image's coordinates, time, height and width count from the position of the image, and the last one does not."""

_NO_SLOT = 1
"""The status of llama_decode when there are no cells for the batch."""

_MAX_COMPACTIONS = 256
"""One fills about 45 gaps for a model of 30 layers: enough for 16,384 cells of which every second one is free."""


class LlamaContext:
    """A llama_context with one unified KV cache. Not thread-safe."""

    def __init__(self, model: Model, options: ContextOptions) -> None:
        """Allocate the cache and the compute buffers. Raises ModelError when there is no memory for them."""
        self._library = library = model.library
        if options.reproducible and not library.supports_reproducible:
            raise ModelError(f"{library.pinned} cannot compute reproducibly; serve the model with llama.cpp itself")
        self._context: int = library.llama_init_from_model(model.handle, library.context_params(options))
        if not self._context:
            advice = "serve it without `reproducible`" if options.reproducible else "try a smaller --kv-cache-tokens"
            raise ModelError(
                f"no context of {options.context_cells} KV cells could be allocated: "
                f"{'; '.join(library.recent_log) or 'no reason was logged'}; {advice}"
            )
        self._memory: int = library.llama_get_memory(self._context)
        self.vocabulary_size = model.vocabulary.size
        self.cells: int = library.llama_n_ctx(self._context)
        self.batch_tokens = options.batch_tokens
        self._threads = options.threads
        self._logits_address = 0
        self._logits_by_rows: dict[int, Logits] = {}
        """The arrays at this address."""
        self._allocate_batch(options.batch_tokens)

    def _allocate_batch(self, size: int) -> None:
        self._tokens = np.zeros(size, dtype=np.int32)
        self._positions = np.zeros(size, dtype=np.int32)
        self._sequence_ids = np.zeros(size, dtype=np.int32)
        self._wants_logits = np.zeros(size, dtype=np.int8)
        self._sequence_counts = np.ones(size, dtype=np.int32)
        self._sequence_pointers = self._sequence_ids.ctypes.data + 4 * np.arange(size, dtype=np.int64)
        self._batch = self._library.batch_type(
            0,
            self._tokens.ctypes.data,
            None,
            self._positions.ctypes.data,
            self._sequence_counts.ctypes.data,
            self._sequence_pointers.ctypes.data,
            self._wants_logits.ctypes.data,
        )

    def set_adapter(self, adapter: LoraAdapter | None) -> None:
        """Compute with this adapter from the next decode on. None stands for the model alone.

        A change costs the next decode some milliseconds, in which llama.cpp plans its buffers again.
        """
        arguments = (None, 0, None) if adapter is None else adapter.arguments
        self._library.llama_set_adapters_lora(self._context, *arguments)

    def use_threads(self, threads: int) -> None:
        """Compute with so many threads from now on."""
        if threads != self._threads:
            self._threads = threads
            self._library.llama_set_n_threads(self._context, threads, threads)

    def decode(self, chunks: Sequence[Chunk]) -> Logits:
        """Decode all chunks in one batch, and return float32[outputs of all, vocabulary] in their order.

        The array is valid until the next decode. Raises DecodeError.
        """
        filled = rows = 0
        for chunk in chunks:
            count = len(chunk.tokens)
            end = filled + count
            if count == 1:  # As usual. Single values take a fraction of the time of slices.
                self._tokens[filled], self._positions[filled] = chunk.tokens[0], chunk.position
                self._sequence_ids[filled], self._wants_logits[filled] = chunk.sequence_id, chunk.outputs
            else:
                self._tokens[filled:end] = chunk.tokens
                self._positions[filled:end] = np.arange(chunk.position, chunk.position + count)
                self._sequence_ids[filled:end] = chunk.sequence_id
                self._wants_logits[filled:end] = 0
                self._wants_logits[end - chunk.outputs : end] = 1
            rows += chunk.outputs
            filled = end
        self._batch.n_tokens = filled
        if (status := self._decode_batch()) != 0:
            raise DecodeError(f"llama_decode returned {status} for {filled} tokens of {len(chunks)} sequences")
        if not rows:
            return np.empty((0, self.vocabulary_size), dtype=np.float32)
        return self._logits(rows)

    def _logits(self, rows: int) -> Logits:
        """Return the array of logits, which is nearly always where it was after the last decode."""
        address = ctypes.c_void_p.from_buffer(self._library.llama_get_logits(self._context)).value
        assert address, "a batch with outputs has logits"
        if address != self._logits_address:
            self._logits_address, self._logits_by_rows = address, {}
        logits = self._logits_by_rows.get(rows)
        if logits is None:
            values = (ctypes.c_float * (rows * self.vocabulary_size)).from_address(address)
            logits = self._logits_by_rows[rows] = np.ctypeslib.as_array(values).reshape(rows, self.vocabulary_size)
        return logits

    def decode_image(self, chunk: Chunk, image: ImageEmbeddings) -> None:
        """Compute the cells of an image. Raises DecodeError."""
        size = len(self._tokens) if image.is_causal else len(image.embeddings)
        coordinates = image.coordinates
        if coordinates is None:
            coordinates = np.arange(len(image.embeddings), dtype=np.int32)[np.newaxis]
        coordinates = coordinates + chunk.position * _MOVES_WITH_POSITION[: len(coordinates)]
        self._library.llama_set_causal_attn(self._context, image.is_causal)
        try:
            for start in range(0, len(image.embeddings), size):
                part = slice(start, start + size)
                self._decode_embeddings(chunk.sequence_id, coordinates[:, part], image.embeddings[part])
        finally:
            self._library.llama_set_causal_attn(self._context, True)

    def _decode_embeddings(self, sequence_id: int, coordinates: TokenArray, embeddings: EmbeddingArray) -> None:
        count = len(embeddings)
        rows, positions = np.ascontiguousarray(embeddings), np.ascontiguousarray(coordinates)
        self._sequence_ids[:count] = sequence_id
        self._wants_logits[:count] = 0
        batch = self._batch
        tokens, text_positions = batch.token, batch.pos
        batch.n_tokens, batch.token, batch.embd, batch.pos = count, None, rows.ctypes.data, positions.ctypes.data
        try:
            status = self._decode_batch()
        finally:
            batch.token, batch.embd, batch.pos = tokens, None, text_positions
        if status != 0:
            raise DecodeError(f"llama_decode returned {status} for {count} embeddings of an image")

    def first_position(self, sequence_id: int) -> int:
        """Return the position from which on every layer has the cells of the sequence, or its state. -1 if it is empty.

        The position of a recurrent state is that of the last token.
        """
        return int(self._library.llama_memory_seq_pos_min(self._memory, sequence_id))

    def share(self, source: int, target: int, start: int, end: int) -> None:
        """Append the cells of `source` from position `start` to `end` to `target`, by reference."""
        self._library.llama_memory_seq_cp(self._memory, source, target, start, end)

    def save(self, sequence_id: int, into: SequenceState = EMPTY_STATE) -> SequenceState:
        """Copy the sequence's cells to host memory, into the beginning of `into` if they fit."""
        needed = self._library.llama_state_seq_get_size(self._context, sequence_id)
        state = into if len(into) >= needed else np.empty(needed, dtype=np.uint8)
        size = self._library.llama_state_seq_get_data(self._context, state.ctypes.data, len(state), sequence_id)
        return state[:size]

    def restore(self, sequence_id: int, state: SequenceState) -> bool:
        """Restore saved cells at their positions in an empty sequence. False if there is no room."""
        arguments = (self._context, state.ctypes.data, len(state), sequence_id)
        return bool(self._with_compaction(lambda: self._library.llama_state_seq_set_data(*arguments), retry_status=0))

    def forget(self, sequence_id: int) -> None:
        """Remove the sequence's references to all its cells."""
        self.truncate(sequence_id, 0)

    def truncate(self, sequence_id: int, length: int) -> None:
        """Remove the sequence's references to its cells from position `length` on."""
        self._library.llama_memory_seq_rm(self._memory, sequence_id, length or -1, -1)

    def _decode_batch(self) -> int:
        return self._with_compaction(
            lambda: self._library.llama_decode(self._context, self._batch), retry_status=_NO_SLOT
        )

    def _with_compaction(self, call: Callable[[], int], *, retry_status: int) -> int:
        """Call, and compact the cells and call again while the result is `retry_status` and compacting can help."""
        for _ in range(_MAX_COMPACTIONS):
            if (result := call()) != retry_status or not self._library.compact(self._context):
                return result
        return call()

    def close(self) -> None:
        """Free the cache and the buffers."""
        self._library.llama_free(self._context)
