"""GGUF files and their names: the parts of a split model, the file of a repository that is meant."""

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

PREFERRED_QUANTIZATIONS = ("Q4_K_M", "Q8_0", "Q4_0", "Q4_K_S", "Q5_K_M", "Q6_K", "Q4_1", "F16", "BF16")
"""Tried in this order when a repository has several files and none is asked for."""

_MAGIC = b"GGUF"
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# Repositories ship these beside a model; they are GGUF, but nothing that generates text.
_COMPANION = re.compile(r"mmproj|imatrix", re.IGNORECASE)


class ModelSourceError(Exception):
    """A model cannot be had. The message is one line for a person: what is wrong and what to do."""


def parts(name: str) -> list[str]:
    """The names of all files of the model that `name` belongs to, in order; often `name` alone."""
    match = _PART.fullmatch(name)
    if match is None:
        return [name]
    stem, count = match["stem"], int(match["count"])
    return [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def models_among(names: Collection[str]) -> list[str]:
    """The models in `names`, split ones by their first part and only when no part is missing."""
    return sorted(
        name
        for name in names
        if name.lower().endswith(".gguf")
        and not _COMPANION.search(PurePosixPath(name).name)
        and parts(name)[0] == name
        and all(part in names for part in parts(name))
    )


def choose(repository: str, names: Collection[str], wanted: str | None) -> str:
    """Which of the repository's files `names` is meant by `wanted`, a file name or a tag such as Q4_K_M.

    None means the only model or the preferred quantization. Raises ModelSourceError, which lists what there
    is, when no file fits or more than one.
    """
    models = models_among(names)
    if not models:
        raise ModelSourceError(f"{repository} holds no GGUF model; a repository with .gguf files is needed")
    if wanted is None:
        found = models if len(models) == 1 else _preferred(models)
    else:
        found = _named(models, parts(wanted)[0]) or _tagged(models, wanted)
    if len(found) == 1:
        return found[0]
    if wanted is None:
        problem = f"{repository} holds several models; name one as {repository}:FILE"
    elif found:
        models, problem = found, f"'{wanted}' fits several files of {repository}; name one"
    else:
        problem = f"{repository} has no file or quantization '{wanted}'"
    raise ModelSourceError(f"{problem}. There are: {', '.join(models)}")


def checked(path: Path) -> Path:
    """The file to give llama.cpp for `path`: itself, or the first part of a split model.

    Raises ModelSourceError unless every part is there and begins as a GGUF file does.
    """
    files = [path.with_name(name) for name in parts(path.name)]
    for file in files:
        try:
            with file.open("rb") as opened:
                magic = opened.read(len(_MAGIC))
        except FileNotFoundError as error:
            raise ModelSourceError(f"there is no model file {file}") from error
        except OSError as error:
            raise ModelSourceError(f"the model file {file} cannot be read: {error.strerror}") from error
        if magic != _MAGIC:
            raise ModelSourceError(f"{file} is not a GGUF file: it begins with {magic!r}, not {_MAGIC!r}")
    return files[0]


def size(path: Path) -> int:
    """Bytes of the model whose first or only file is `path`, all parts together. Raises OSError."""
    return sum(path.with_name(name).stat().st_size for name in parts(path.name))


def _preferred(models: list[str]) -> list[str]:
    for tag in PREFERRED_QUANTIZATIONS:
        if found := _tagged(models, tag):
            return found
    return []


def _named(models: list[str], wanted: str) -> list[str]:
    return [name for name in models if wanted in (name, PurePosixPath(name).name)]


def _tagged(models: list[str], tag: str) -> list[str]:
    # Q4_K must not fit Q4_K_M, nor Q4_0 fit IQ4_0 or Q4_0_8_8.
    pattern = re.compile(rf"(?<![a-z0-9]){re.escape(tag)}(?![a-z0-9_])", re.IGNORECASE)
    return [name for name in models if pattern.search(name)]
