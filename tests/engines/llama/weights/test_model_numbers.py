"""Numbers in a model file that llama.cpp does not survive are refused by the file's and the field's name."""

import math
from pathlib import Path

import pytest

from dragoman.engines.llama.weights.gguf_files import ModelSourceError
from dragoman.engines.llama.weights.model_numbers import check_model_numbers
from dragoman.engines.llama.weights.sources import bundled
from dragoman.server.planning import plan_deployments
from dragoman.server.settings import Settings
from tests.support.gguf_files import write_tiny_model

EPSILON = "llama.attention.layer_norm_rms_epsilon"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("llama.block_count", value) for value in (0, 513, 2**32 - 1)),
        *(("llama.context_length", value) for value in (0, 2**31)),
        *((EPSILON, value) for value in (math.nan, math.inf, -1.0, 0.0)),
        *(("llama.rope.freq_base", value) for value in (math.nan, 0.0, -10000.0)),
        ("llama.attention.scale", math.nan),
        ("llama.rope.scaling.type", "su"),
        ("llama.expert_count", 513),
    ],
)
def test_a_value_that_no_model_has_is_refused_in_one_line(tmp_path: Path, key: str, value: float | str) -> None:
    path = write_tiny_model(tmp_path / "odd.gguf", vocabulary={key: value})
    with pytest.raises(ModelSourceError) as refused:
        plan_deployments(Settings(model=str(path)))
    assert str(refused.value).startswith(f"{path} cannot be served: its {key} is {value}, and must be ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("experts", "used"), [(0, 2), (4, 0), (4, 5)])
def test_the_experts_of_a_token_must_be_some_of_all(tmp_path: Path, experts: int, used: int) -> None:
    counts = {"llama.expert_count": experts, "llama.expert_used_count": used}
    path = write_tiny_model(tmp_path / "odd.gguf", vocabulary=counts)
    with pytest.raises(ModelSourceError, match=rf"its llama.expert_used_count is {used}, and .* {experts}$"):
        check_model_numbers(path)


def test_what_models_have_is_served(tmp_path: Path) -> None:
    check_model_numbers(bundled().path)
    usual = {"llama.expert_count": 4, "llama.expert_used_count": 2, "llama.rope.scaling.type": "yarn"}
    check_model_numbers(write_tiny_model(tmp_path / "usual.gguf", vocabulary=usual))


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    check_model_numbers(write_tiny_model(path))
    write_tiny_model(path, vocabulary={"llama.block_count": 0})
    with pytest.raises(ModelSourceError, match="block_count"):
        check_model_numbers(path)


def test_a_file_that_is_not_whole_is_left_to_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(b"GGUF")
    check_model_numbers(path)
