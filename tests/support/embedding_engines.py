"""An engine without a model that answers requests for embeddings or scores, for tests of everything around it."""

import asyncio
from collections.abc import AsyncGenerator

import numpy as np

from dragoman.core.capabilities import Capability
from dragoman.core.embedding import EmbeddingInput, EmbeddingRequest, ModelKind, TextPair
from dragoman.core.errors import BadRequest, DragomanError
from dragoman.core.events import Embedding, Event, Usage
from dragoman.core.request import TextPrompt
from dragoman.engines.base import Embeds
from dragoman.engines.echo import EchoEngine

DIMENSIONS = 4

_CAPABILITIES: frozenset[Capability] = frozenset({"exact_token_counts", "tokenize"})


class CountingEmbedder(EchoEngine, Embeds):
    """The vector of a text has its length and counts of letters. The score of a pair counts its common words.

    An input has as many tokens as characters, and at most 100.
    """

    capabilities = _CAPABILITIES

    def __init__(self, kind: ModelKind = "embeddings", *failures: DragomanError) -> None:
        """Let the first runs fail with these errors."""
        super().__init__(context_length=100)
        self.model_kind = kind
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()
        self.runs = 0
        self.cancelled = 0
        self._failures = list(failures)

    @property
    def embedding_dimensions(self) -> int | None:
        return DIMENSIONS if self.model_kind == "embeddings" else None

    async def count_input_tokens(self, request: EmbeddingRequest) -> int:
        lengths = [len(_content(each)) for each in request.inputs]
        for index, length in enumerate(lengths):
            if length > 100:
                raise BadRequest(f"{request.parameter}[{index}] has {length} tokens, the model takes 100", "input")
        return sum(lengths)

    async def embed(self, request: EmbeddingRequest) -> AsyncGenerator[Event]:
        self.runs += 1
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self._failures:
            raise self._failures.pop(0)
        tokens = await self.count_input_tokens(request)
        for index, each in enumerate(request.inputs):
            yield Embedding(index, np.array(_values(each), dtype="<f4").tobytes())
        yield Usage(tokens, 0, 0)


def _content(each: EmbeddingInput) -> str | tuple[int, ...]:
    if isinstance(each, TextPair):
        return each.query + each.document
    return each.text if isinstance(each, TextPrompt) else each.token_ids


def _values(each: EmbeddingInput) -> list[float]:
    if isinstance(each, TextPair):
        return [len({*each.query.split()} & {*each.document.split()}) / 10]
    content = _content(each)
    text = content if isinstance(content, str) else "".join(map(chr, content))
    values = np.array([len(text), *(text.count(letter) for letter in "abc")], dtype=np.float64)
    return list(values / np.linalg.norm(values))
