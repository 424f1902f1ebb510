"""What a model is for, as its file says."""

from pathlib import Path

import gguf
import pytest

from dragoman.core.embedding import ModelKind
from dragoman.engines.llama.weights.model_kind import (
    CLS_POOLING,
    LAST_POOLING,
    MEAN_POOLING,
    RANK_POOLING,
    Pooling,
    model_kind,
    read_pooling,
)


def write(path: Path, architecture: str, pooling: gguf.PoolingType | None, *, causal: bool | None = None) -> Path:
    """Write a file without weights."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_token_list(["an", "array"])
    if pooling is not None:
        writer.add_pooling_type(pooling)
    if causal is not None:
        writer.add_causal_attention(causal)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "pooling", "causal", "kind", "expected"),
    [
        ("bert", gguf.PoolingType.MEAN, False, "embeddings", Pooling(MEAN_POOLING, False)),
        ("bert", gguf.PoolingType.CLS, False, "embeddings", Pooling(CLS_POOLING, False)),
        ("nomic-bert", None, None, "embeddings", Pooling(MEAN_POOLING, False)),
        ("qwen3", gguf.PoolingType.LAST, None, "embeddings", Pooling(LAST_POOLING, True)),
        ("qwen3", gguf.PoolingType.RANK, None, "rerank", Pooling(RANK_POOLING, True)),
        ("bert", gguf.PoolingType.RANK, False, "rerank", Pooling(RANK_POOLING, False)),
        ("llama", gguf.PoolingType.NONE, None, "generation", Pooling(LAST_POOLING, True)),
        ("llama", None, None, "generation", Pooling(LAST_POOLING, True)),
    ],
)
def test_the_kind_and_the_pooling_follow_from_the_metadata(
    tmp_path: Path,
    architecture: str,
    pooling: gguf.PoolingType | None,
    causal: bool | None,
    kind: ModelKind,
    expected: Pooling,
) -> None:
    path = write(tmp_path / "model.gguf", architecture, pooling, causal=causal)
    assert model_kind(path) == kind
    assert read_pooling(path, "embeddings" if kind == "generation" else kind) == expected


def test_only_the_last_token_of_a_causal_model_can_stand_for_several_steps() -> None:
    assert Pooling(LAST_POOLING, True).allows_chunks
    assert not Pooling(LAST_POOLING, False).allows_chunks
    assert not Pooling(MEAN_POOLING, True).allows_chunks
