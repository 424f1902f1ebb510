"""A projector file (mmproj): it turns images into embeddings that a model reads among those of its tokens."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.native.backend import ImageEmbeddings
from dragoman.engines.llama.native.libraries.mtmd import IMAGE_CHUNK, Mtmd, MtmdInputText
from dragoman.engines.llama.native.model import Model, ModelError, logged_reason
from dragoman.engines.llama.raw_image import RawImage


class ImageProjector:
    """The file in memory. `tokenize` may be called from any thread, `encode` from one at a time."""

    def __init__(self, model: Model, path: Path, threads: int) -> None:
        """Load the file for the model. Raises LibraryError or ModelError."""
        self.mtmd = mtmd = Mtmd(model.library)
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = params.print_timings = params.warmup = False
        params.n_threads = threads
        model.library.recent_log.clear()
        self.handle: int | None = mtmd.mtmd_init_from_file(str(path).encode(), model.handle, params)
        if not self.handle:
            raise ModelError(f"{path} cannot be loaded as mmproj for {model.path}: {logged_reason(model.library)}")
        self._width: int = mtmd.llama_model_n_embd_inp(model.handle)
        self.is_causal = not mtmd.mtmd_decode_use_non_causal(self.handle, None)
        """Whether the parts of an image see only those before them."""
        self.has_coordinates: bool = mtmd.mtmd_decode_use_mrope(self.handle)
        """Whether the model has positions in several dimensions (M-RoPE)."""
        self._reject_unsupported(model, path)

    def tokenize(self, image: RawImage) -> list[TokenArray | int]:
        """Return what the model reads: tokens of text, and the number of embeddings of each tile of the image."""
        with self._chunks(image) as chunks:
            return [self._text(chunk) if size is None else size for chunk, size in chunks]

    def encode(self, image: RawImage) -> list[ImageEmbeddings]:
        """Compute the embeddings of each tile. It takes as long as a model of some hundred million weights."""
        with self._chunks(image) as chunks:
            return [self._encode(chunk, size) for chunk, size in chunks if size is not None]

    def close(self) -> None:
        """Free the weights."""
        self.mtmd.mtmd_free(self.handle)

    def _reject_unsupported(self, model: Model, path: Path) -> None:
        grey = RawImage(32, 32, bytes([127]) * (32 * 32 * 3))
        reason = None
        if not self.mtmd.mtmd_support_vision(self.handle):
            reason = "it is not for images"
        elif self.has_coordinates and (model.sliding_window or model.has_recurrent_state):
            reason = "positions of several dimensions (M-RoPE) are served without sliding windows and recurrent states"
        elif any(isinstance(piece, np.ndarray) and (piece < 0).any() for piece in self.tokenize(grey)):
            reason = "the vocabulary of the model lacks the tokens around images"
        if reason is not None:
            self.close()
            raise ModelError(f"{path} cannot be served as mmproj for {model.path}: {reason}; serve it without --mmproj")

    @contextmanager
    def _chunks(self, image: RawImage) -> Iterator[list[tuple[int, int | None]]]:
        """Prepare an image, and yield its chunks: each with its number of embeddings, or None if it is text."""
        mtmd = self.mtmd
        marker: bytes = mtmd.mtmd_get_marker(self.handle)
        text = MtmdInputText(marker, len(marker), False, True)
        bitmap = mtmd.mtmd_bitmap_init(image.width, image.height, image.pixels)
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            status = mtmd.mtmd_tokenize(self.handle, chunks, text, (ctypes.c_void_p * 1)(bitmap), 1)
            if status != 0:
                raise ValueError(f"llama.cpp could not prepare an image of {image.width} x {image.height} pixels")
            handles = [
                mtmd.mtmd_input_chunks_get(chunks, index) for index in range(mtmd.mtmd_input_chunks_size(chunks))
            ]
            yield [(handle, self._image_size(handle)) for handle in handles]
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _image_size(self, chunk: int) -> int | None:
        if self.mtmd.mtmd_input_chunk_get_type(chunk) != IMAGE_CHUNK:
            return None
        return int(self.mtmd.mtmd_input_chunk_get_n_tokens(chunk))

    def _text(self, chunk: int) -> TokenArray:
        count = ctypes.c_size_t()
        tokens = self.mtmd.mtmd_input_chunk_get_tokens_text(chunk, count)
        return np.array(tokens[: count.value], dtype=np.int32)

    def _encode(self, chunk: int, size: int) -> ImageEmbeddings:
        if self.mtmd.mtmd_encode_chunk(self.handle, chunk) != 0:
            raise ValueError("llama.cpp could not encode an image")
        embeddings = np.ctypeslib.as_array(self.mtmd.mtmd_get_output_embd(self.handle), (size, self._width))
        if not np.isfinite(embeddings).all():
            raise ValueError("llama.cpp computed embeddings of an image that are no numbers")
        if not self.has_coordinates:
            return ImageEmbeddings(embeddings.copy(), self.is_causal)
        positions: int = self.mtmd.mtmd_input_chunk_get_n_pos(chunk)
        return ImageEmbeddings(embeddings.copy(), self.is_causal, self._coordinates(chunk, size, 0), positions)

    def _coordinates(self, chunk: int, size: int, position: int) -> TokenArray:
        """Return time, height, width and a fourth coordinate of an image at this position: int32[4, size]."""
        tokens = self.mtmd.mtmd_input_chunk_get_tokens_image(chunk)
        places = [self.mtmd.mtmd_image_tokens_get_decoder_pos(tokens, position, index) for index in range(size)]
        return np.array([[place.t, place.y, place.x, place.z] for place in places], dtype=np.int32).T
