"""What the model in a GGUF file is for."""

from pathlib import Path
from typing import NamedTuple

from dragoman.core.embedding import ModelKind
from dragoman.engines.llama.weights.gguf_metadata import whole_metadata

NO_POOLING, MEAN_POOLING, CLS_POOLING, LAST_POOLING, RANK_POOLING = range(5)
"""The enum llama_pooling_type, which is also the value of `{architecture}.pooling_type` in a file."""

_VECTOR_POOLINGS = (MEAN_POOLING, CLS_POOLING, LAST_POOLING)

ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
    }
)
"""Architectures whose attention sees the tokens before and after each token, by llama.cpp's names."""


class Pooling(NamedTuple):
    """How the vectors of an input's tokens become one."""

    type: int
    """A value of the enum llama_pooling_type."""
    is_causal: bool
    """Whether the vector of a token depends on the tokens before it only."""

    @property
    def is_of_encoder(self) -> bool:
        """Whether tokens see those after them, and a vector is their mean or that of the first one."""
        return not self.is_causal and self.type in (MEAN_POOLING, CLS_POOLING)

    @property
    def allows_chunks(self) -> bool:
        """Whether an input may be computed in several steps: its last token comes last, and stands for all."""
        return self.is_causal and self.type in (LAST_POOLING, RANK_POOLING)


def model_kind(path: Path) -> ModelKind:
    """Find out what the model in the file is for. Raises ModelSourceError."""
    architecture, pooling, _ = _pooling_metadata(path)
    if pooling == RANK_POOLING:
        return "rerank"
    return "embeddings" if pooling in _VECTOR_POOLINGS or architecture in ENCODERS else "generation"


def read_pooling(path: Path, kind: ModelKind) -> Pooling:
    """Return the pooling of a model that is used for embeddings or reranking. Raises ModelSourceError.

    A file that says nothing about it holds a model for generation, used for another purpose, or an old encoder.
    """
    _, pooling, is_causal = _pooling_metadata(path)
    if kind == "rerank":
        pooling = RANK_POOLING
    elif pooling not in _VECTOR_POOLINGS:
        pooling = LAST_POOLING if is_causal else MEAN_POOLING
    return Pooling(pooling, is_causal)


def _pooling_metadata(path: Path) -> tuple[str, int, bool]:
    """Return the architecture, the pooling type, and whether attention is causal."""
    metadata = whole_metadata(path)
    architecture = str(metadata.get("general.architecture", ""))
    is_causal = bool(metadata.get(f"{architecture}.attention.causal", architecture not in ENCODERS))
    return architecture, int(metadata.get(f"{architecture}.pooling_type", NO_POOLING)), is_causal
