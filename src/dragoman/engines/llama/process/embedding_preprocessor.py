"""The preprocessor of a model for embeddings: from a worker's command to a job of the batcher."""

import re
import sys
from collections.abc import Sequence

import msgspec
import numpy as np

from dragoman.core.embedding import EmbeddingInput, TextPair
from dragoman.core.errors import BadRequest
from dragoman.core.limits import MAX_INPUT_TOKENS, check_token_ids
from dragoman.core.request import PromptTruncation, TextPrompt, TokenPrompt
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.batching.sequence import RequestKey
from dragoman.engines.llama.embedding.batcher import EmbeddingJob
from dragoman.engines.llama.embedding.vectors import DenseVector, Score, VectorFormat
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.process.preprocessor import PromptTokenizer
from dragoman.engines.llama.wire.messages import EmbedCommand


class EmbeddingPreprocessor(PromptTokenizer):
    """Makes the jobs of one model. Used by one thread of its own."""

    def __init__(
        self, model: Model, longest: int, *, width: int, dimensions: Sequence[int] = (), score: Score | None = None
    ) -> None:
        """`longest`: the most tokens of an input. `width`: values of a vector.

        `dimensions` are the lengths to which a vector may be cut. `score`: of a reranker, which takes pairs; None: the
        model takes texts.
        """
        super().__init__(model, longest)
        self._dimensions = sorted({*dimensions, width})
        self._score = score

    def preprocess(self, key: RequestKey, command: EmbedCommand) -> EmbeddingJob:
        """Tokenize and validate a worker's command. Raises BadRequest."""
        vector_format = self._vector_format(command)
        inputs = self.tokenize_inputs(command.inputs, command.parameter)
        return EmbeddingJob(key, inputs, vector_format, priority=command.priority, owner=command.owner)

    def tokenize_inputs(self, inputs: Sequence[EmbeddingInput], parameter: str) -> list[TokenArray]:
        """Return the tokens of each input. Raises BadRequest naming the first one that is wrong."""
        tokenized = []
        for index, each in enumerate(inputs):
            name = f"{parameter}[{index}]"
            tokens = self._tokenize(each, name)
            if not 0 < len(tokens) <= self.context_length:
                reason = (
                    f"has {len(tokens)} tokens, the model takes {self.context_length}" if len(tokens) else "is empty"
                )
                raise BadRequest(f"{name} {reason}", parameter)
            tokenized.append(np.array(tokens, dtype=np.int32))
        if (total := sum(map(len, tokenized))) > MAX_INPUT_TOKENS:
            raise BadRequest(f"{parameter} has {total} tokens together, and may have {MAX_INPUT_TOKENS}", parameter)
        return tokenized

    def _tokenize(self, each: EmbeddingInput, name: str) -> Sequence[int]:
        vocabulary = self._model.vocabulary
        if isinstance(each, TextPair) != (self._score is not None):
            needed = "pairs of a query and a document" if self._score else "texts"
            raise BadRequest(f"{name} does not fit the model, which takes {needed}", name)
        match each:
            case TextPair():
                return self._tokenize_pair(each)
            case TokenPrompt(token_ids, truncation):
                check_token_ids(name, token_ids, vocabulary.size)
                return self._truncated(token_ids, truncation, 0)
            case TextPrompt(text, truncation, add_special_tokens):
                first, last = vocabulary.framing() if add_special_tokens else ([], [])
                tokens = vocabulary.tokenize(text, add_special=False).tolist()
                return [*first, *self._truncated(tokens, truncation, len(first) + len(last)), *last]

    def _tokenize_pair(self, pair: TextPair) -> list[int]:
        template, vocabulary = self._model.rerank_template, self._model.vocabulary
        document = vocabulary.tokenize_plain(pair.document.encode())
        if template is None:
            first, last = vocabulary.framing()
            before = [*first, *vocabulary.tokenize_plain(pair.query.encode()), *vocabulary.pair_separator()]
            return [*before, *self._truncated(document, pair.truncation, len(before) + len(last)), *last]
        tokens = self._rendered_pair(template, pair.query, pair.document)
        # The text of a document's first tokens may have more tokens than those, where it meets the template.
        while document and len(tokens) > self._limit(pair.truncation):
            document = document[: self._limit(pair.truncation) - len(tokens)]
            tokens = self._rendered_pair(template, pair.query, self._text(np.array(document, dtype=np.int32)))
        return tokens

    def _rendered_pair(self, template: str, query: str, document: str) -> list[int]:
        """Tokenize a template with its query and its document, in which nothing is a special token."""
        text, literal_offsets = "", list[int]()
        for part in _PLACEHOLDERS.split(template):
            value = {"{query}": query, "{document}": document}.get(part)
            if value is not None:
                literal_offsets += range(len(text), len(text) + len(value))
            text += part if value is None else value
        return self._model.vocabulary.tokenize_in_place(text, literal_offsets)

    def _limit(self, truncation: PromptTruncation | None) -> int:
        """Return the most tokens of a truncated input. There is no limit without truncation."""
        if truncation is None:
            return sys.maxsize
        return min(self.context_length, truncation.tokens or self.context_length)

    def _truncated(self, tokens: Sequence[int], truncation: PromptTruncation | None, framing: int) -> Sequence[int]:
        """Return those of the tokens that fit beside `framing` others: none if those take all the room."""
        if truncation is None:
            return tokens
        kept = max(0, self._limit(truncation) - framing)
        return tokens[max(0, len(tokens) - kept) :] if truncation.side == "left" else tokens[:kept]

    def _vector_format(self, command: EmbedCommand) -> VectorFormat:
        dimensions = command.dimensions
        if self._score is not None:
            return msgspec.structs.replace(self._score, as_probability=command.activation)
        if dimensions is not None and dimensions not in self._dimensions:
            possible = ", ".join(map(str, self._dimensions))
            raise BadRequest(f"dimensions is {dimensions}; the model has vectors of {possible} values", "dimensions")
        return DenseVector(dimensions, command.activation)


_PLACEHOLDERS = re.compile(r"(\{query\}|\{document\})")
