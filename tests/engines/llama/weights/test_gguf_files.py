import os
import time
from pathlib import Path

import pytest

from dragoman.engines.llama.weights.gguf_files import (
    ModelSourceError,
    check_model_file,
    choose_model_file,
    find_models,
    model_size,
    part_names,
)
from dragoman.engines.llama.weights.gguf_header import MAGIC

SPLIT = [f"big-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


def refusal(names: list[str], wanted: str | None) -> str:
    with pytest.raises(ModelSourceError) as caught:
        choose_model_file("owner/name", names, wanted)
    return str(caught.value)


def test_a_model_in_one_file_has_one_part() -> None:
    assert part_names("model.gguf") == ["model.gguf"]


@pytest.mark.parametrize("name", SPLIT)
def test_any_part_names_them_all(name: str) -> None:
    assert part_names(name) == SPLIT


def test_models_are_complete_gguf_files_that_generate_text() -> None:
    names = ["README.md", "mmproj-model-f16.gguf", "imatrix.gguf", "b.GGUF", "sub/a.gguf", *SPLIT[:2]]
    assert find_models(names) == ["b.GGUF", "sub/a.gguf"]
    assert find_models(SPLIT) == [SPLIT[0]]


def test_a_name_that_counts_no_parts_is_a_models_own() -> None:
    name = "m-00001-of-00000.gguf"
    assert part_names(name) == [name]
    assert choose_model_file("acme/m", [name], name) == name


def test_names_of_many_absent_parts_take_no_time() -> None:
    names = [f"m{number}-00001-of-99999.gguf" for number in range(1000)]
    started = time.process_time()
    assert find_models([*names, "whole.gguf"]) == ["whole.gguf"]
    assert time.process_time() - started < 1, "listing the parts of each takes a minute and a half"


def test_a_file_whose_name_is_not_in_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"m\xff.gguf")
    path.write_bytes(MAGIC)
    with pytest.raises(ModelSourceError, match=r"^the name of m\ufffd\.gguf or of its folder is not in UTF-8"):
        check_model_file(path)


def test_the_only_model_needs_no_name() -> None:
    assert choose_model_file("owner/name", ["config.json", "only-Q2_K.gguf", "mmproj.gguf"], None) == "only-Q2_K.gguf"


@pytest.mark.parametrize(
    ("names", "preferred"),
    [
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q2_K.gguf"], "m-Q4_K_M.gguf"),
        (["m-Q4_0.gguf", "m-q8_0.gguf", "m-IQ4_NL.gguf"], "m-q8_0.gguf"),
        (["m.Q4_0.gguf", "m.Q4_0_8_8.gguf"], "m.Q4_0.gguf"),
        ([*SPLIT, "m-Q3_K_S.gguf"], SPLIT[0]),
    ],
)
def test_without_a_name_a_middling_quantization_is_taken(names: list[str], preferred: str) -> None:
    assert choose_model_file("owner/name", names, None) == preferred


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("m-Q4_K_M.gguf", "m-Q4_K_M.gguf"),
        ("sub/m-F16.gguf", "sub/m-F16.gguf"),
        ("m-F16.gguf", "sub/m-F16.gguf"),
        ("q4_k_m", "m-Q4_K_M.gguf"),
        ("Q4_K_S", "m-Q4_K_S.gguf"),
        ("f16", "sub/m-F16.gguf"),
        ("Q8_0", SPLIT[0]),
        (SPLIT[2], SPLIT[0]),
    ],
)
def test_a_file_name_or_a_tag_in_any_case_chooses(wanted: str, chosen: str) -> None:
    names = ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-IQ8_0.gguf", "sub/m-F16.gguf", "sub/m-BF16.gguf", *SPLIT]
    assert choose_model_file("owner/name", names, wanted) == chosen


def test_an_unknown_file_is_answered_with_the_existing_ones() -> None:
    assert refusal(["b-Q8_0.gguf", "a-Q4_0.gguf", "README.md"], "Q4") == (
        "owner/name has no file or quantization 'Q4'. There are: a-Q4_0.gguf, b-Q8_0.gguf"
    )


def test_an_ambiguous_tag_is_answered_with_the_matching_files() -> None:
    assert refusal(["a-Q8_0.gguf", "b-Q8_0.gguf", "c-F16.gguf"], "Q8_0") == (
        "'Q8_0' fits several files of owner/name; name one. There are: a-Q8_0.gguf, b-Q8_0.gguf"
    )


def test_several_models_without_a_preferred_one_need_a_name() -> None:
    assert refusal(["a.gguf", "b.gguf"], None) == (
        "owner/name holds several models; name one as owner/name:FILE. There are: a.gguf, b.gguf"
    )


def test_a_repository_without_gguf_files_is_refused() -> None:
    assert refusal(["model.safetensors"], "Q8_0").startswith("owner/name holds no GGUF model")


def test_a_split_model_is_given_by_its_first_part_and_weighs_as_much_as_all(tmp_path: Path) -> None:
    for name in SPLIT:
        (tmp_path / name).write_bytes(b"GGUF....")
    assert check_model_file(tmp_path / SPLIT[1]) == tmp_path / SPLIT[0]
    assert model_size(tmp_path / SPLIT[0]) == 24


def test_a_split_model_needs_every_part(tmp_path: Path) -> None:
    for name in SPLIT[:2]:
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelSourceError, match=r"there is no model file .*-00003-of-00003\.gguf"):
        check_model_file(tmp_path / SPLIT[0])


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04data"])
def test_a_file_without_the_magic_bytes_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelSourceError, match=r"model\.gguf is not a GGUF file: it begins with b'"):
        check_model_file(path)
