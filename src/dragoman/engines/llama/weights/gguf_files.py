"""The names of GGUF files: the parts of a split model, and the choice of a file in a repository."""

import os
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from dragoman.engines.llama.weights.gguf_header import MAGIC, Header, read_header

PREFERRED_QUANTIZATIONS = ("Q4_K_M", "Q8_0", "Q4_0", "Q4_K_S", "Q5_K_M", "Q6_K", "Q4_1", "F16", "BF16")
"""Tried in this order if a repository has several files and none is named."""

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# Repositories contain these beside a model. They are GGUF files, but do not generate text.
_COMPANION = re.compile(r"mmproj|imatrix", re.IGNORECASE)


_PEFT_FILES = {"adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"}
"""The files of a LoRA adapter as saved by PEFT, the usual training library."""


class ModelSourceError(Exception):
    """A model is not available. The message is one line for the user: what is wrong and what to do."""


def part_names(name: str) -> list[str]:
    """Return the names of all files of the model that `name` belongs to, in order; often `name` alone."""
    match = _PART.fullmatch(name)
    if match is None or int(match["count"]) == 0:
        return [name]
    stem, count = match["stem"], int(match["count"])
    return [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def _part_count(name: str) -> int:
    match = _PART.fullmatch(name)
    return 1 if match is None else int(match["count"])


def find_models(names: Collection[str]) -> list[str]:
    """Return the models in `names`; split ones by their first part, and only if no part is missing."""
    known = frozenset(names)
    return sorted(
        name
        for name in names
        if name.lower().endswith(".gguf")
        and not _COMPANION.search(PurePosixPath(name).name)
        and _part_count(name) <= len(known)
        and part_names(name)[0] == name
        and known.issuperset(part_names(name))
    )


def choose_model_file(repository: str, names: Collection[str], wanted: str | None) -> str:
    """Choose one of the repository's files `names` by `wanted`, a file name or a tag such as Q4_K_M.

    None means the only model or the preferred quantization. Raises ModelSourceError with a list of the models if
    not exactly one file matches.
    """
    models = find_models(names)
    if not models:
        reject_peft(repository, names)
        raise ModelSourceError(f"{repository} holds no GGUF model; a repository with .gguf files is needed")
    if wanted is None:
        found = models if len(models) == 1 else _with_preferred_tag(models)
    else:
        found = _with_name(models, part_names(wanted)[0]) or _with_tag(models, wanted)
    if len(found) == 1:
        return found[0]
    if wanted is None:
        problem = f"{repository} holds several models; name one as {repository}:FILE"
    elif found:
        models, problem = found, f"'{wanted}' fits several files of {repository}; name one"
    else:
        problem = f"{repository} has no file or quantization '{wanted}'"
    raise ModelSourceError(f"{problem}. There are: {', '.join(models)}")


def check_model_file(path: Path) -> Path:
    """Return the file to load for `path`: itself, or the first part of a split model.

    Raises ModelSourceError unless every part exists and begins like a GGUF file.
    """
    reject_undecodable(path)
    files = [path.with_name(name) for name in part_names(path.name)]
    for file in files:
        try:
            with file.open("rb") as opened:
                magic = opened.read(len(MAGIC))
        except FileNotFoundError as error:
            raise ModelSourceError(f"there is no model file {file}") from error
        except OSError as error:
            raise ModelSourceError(f"the model file {file} cannot be read: {error.strerror}") from error
        if magic != MAGIC:
            raise ModelSourceError(f"{file} is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
    return files[0]


def reject_undecodable(path: Path) -> None:
    """Raise ModelSourceError if the path is not in UTF-8: it could not be passed on between processes."""
    shown = os.fsencode(path).decode(errors="replace")
    if shown != str(path):
        raise ModelSourceError(f"the name of {PurePosixPath(shown).name} or of its folder is not in UTF-8; rename it")


def reject_peft(name: str, files: Collection[str]) -> None:
    """Raise ModelSourceError if the files are a LoRA adapter that must be converted to GGUF first."""
    if not _PEFT_FILES.isdisjoint(files):
        raise ModelSourceError(
            f"{name} is a PEFT adapter and not GGUF; convert it with llama.cpp's convert_lora_to_gguf.py, which needs "
            "the original base model"
        )


def too_large(name: str, size: int, max_bytes: int) -> ModelSourceError:
    """Return the error of an adapter that has at least `size` bytes."""
    return ModelSourceError(f"{name} has at least {size} bytes, and adapters may have {max_bytes} (max_adapter_bytes)")


def read_headers(path: Path) -> list[Header]:
    """Read the header of a model's file, or those of all its parts. Raises HeaderError, ModelSourceError or OSError."""
    return [read_header(path.with_name(name)) for name in part_names(path.name)]


def model_size(path: Path) -> int:
    """Return the size in bytes of all parts of the model with the first or only file `path`. Raises OSError."""
    return sum(path.with_name(name).stat().st_size for name in part_names(path.name))


def _with_preferred_tag(models: list[str]) -> list[str]:
    for tag in PREFERRED_QUANTIZATIONS:
        if found := _with_tag(models, tag):
            return found
    return []


def _with_name(models: list[str], wanted: str) -> list[str]:
    return [name for name in models if wanted in (name, PurePosixPath(name).name)]


def _with_tag(models: list[str], tag: str) -> list[str]:
    # Q4_K must not match Q4_K_M, nor Q4_0 match IQ4_0 or Q4_0_8_8.
    pattern = re.compile(rf"(?<![a-z0-9]){re.escape(tag)}(?![a-z0-9_])", re.IGNORECASE)
    return [name for name in models if pattern.search(name)]
