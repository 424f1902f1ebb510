"""Prompts with images: their tokens, and the embeddings that the model reads in place of some of them."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from dragoman.core.errors import BadRequest
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.batching.sequence import PromptImage
from dragoman.engines.llama.native.backend import ImageEmbeddings
from dragoman.engines.llama.native.image_projector import ImageProjector
from dragoman.engines.llama.native.model import Vocabulary
from dragoman.engines.llama.raw_image import RawImage
from dragoman.engines.llama.wire.messages import ImagePrompt

_MAX_KEPT_BYTES = 256 * 2**20
"""The most bytes of embeddings that are kept: some hundred images of a usual model."""


class ImageTokenizer:
    """Tokenizes the prompts of a model with a projector.

    Numbers below 0 stand for the embeddings of an image. They depend on its pixels, so that prompts with the same image
    share KV cells, and others do not.
    """

    def __init__(self, projector: ImageProjector, vocabulary: Vocabulary, batch_tokens: int) -> None:
        """`batch_tokens`: the most tokens of one decode."""
        self._projector = projector
        self._vocabulary = vocabulary
        self._batch_tokens = batch_tokens
        self._kept: OrderedDict[tuple[str, bytes], list[ImageEmbeddings]] = OrderedDict()
        """Owner and digest of an image → its embeddings, the least recently used first.

        Owners share none: the time that it takes would reveal what another one has sent.
        """
        self._kept_bytes = 0

    def tokenize(self, prompt: ImagePrompt) -> TokenArray:
        """Return the tokens of a prompt, as llama.cpp's server splits it. May be called from any thread.

        Raises BadRequest.
        """
        first, last = self._vocabulary.framing_of(prompt.text, prompt.literal_offsets)
        tokens = first
        begin = 0
        for placed in prompt.images:
            tokens += self._text(prompt, begin, placed.offset)
            tokens += self._tokens_of(placed.image)
            begin = placed.offset
        tokens += self._text(prompt, begin, len(prompt.text)) + last
        if tokens[-1] < 0:
            raise BadRequest("The prompt ends with an image; a model goes on from text", "messages")
        return np.array(tokens, dtype=np.int32)

    def encode(self, prompt: ImagePrompt, tokens: TokenArray, owner: str) -> list[PromptImage]:
        """Compute the images of a tokenized prompt. Called from one thread at a time. Raises BadRequest."""
        positions = np.flatnonzero(tokens < 0)
        images: list[PromptImage] = []
        computed = 0
        for placed in prompt.images:
            for image in self._encoded(placed.image, owner):
                images.append(PromptImage(int(positions[computed]), image))
                computed += len(image.embeddings)
        return images

    def _text(self, prompt: ImagePrompt, begin: int, end: int) -> list[int]:
        literal = [offset - begin for offset in prompt.literal_offsets if begin <= offset < end]
        return self._vocabulary.tokenize_in_place(prompt.text[begin:end], literal)

    def _tokens_of(self, image: RawImage) -> Iterator[int]:
        digest = _digest(image)
        try:
            pieces = self._projector.tokenize(image)
        except ValueError as error:
            raise BadRequest(str(error), "messages") from error
        for number, piece in enumerate(pieces):
            if isinstance(piece, int):
                self._check_size(piece)
                yield from _stand_ins(digest, number, piece)
            else:
                yield from piece.tolist()

    def _check_size(self, size: int) -> None:
        if size > self._batch_tokens and not self._projector.is_causal:
            raise BadRequest(
                f"An image of this model has {size} tokens, which it reads at once; "
                f"start the server with max_batched_tokens of at least {size} (now {self._batch_tokens})",
                "messages",
            )

    def _encoded(self, image: RawImage, owner: str) -> list[ImageEmbeddings]:
        key = owner, _digest(image)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        try:
            encoded = self._projector.encode(image)
        except ValueError as error:
            raise BadRequest(str(error), "messages") from error
        self._kept[key] = encoded
        self._kept_bytes += _size(encoded)
        while self._kept_bytes > _MAX_KEPT_BYTES:
            self._kept_bytes -= _size(self._kept.popitem(last=False)[1])
        return encoded


def _digest(image: RawImage) -> bytes:
    shape = f"{image.width} {image.height} ".encode()
    return hashlib.blake2b(shape + image.pixels, digest_size=32).digest()


def _stand_ins(digest: bytes, number: int, count: int) -> list[int]:
    """Return numbers below 0 that depend on the image, with 31 random bits each."""
    bits = hashlib.shake_128(digest + number.to_bytes(4, "little")).digest(4 * count)
    values: list[int] = (-1 - (np.frombuffer(bits, dtype=np.int32) & 0x7FFFFFFF)).tolist()
    return values


def _size(encoded: list[ImageEmbeddings]) -> int:
    return sum(each.embeddings.nbytes for each in encoded)
