"""The entries in the metadata of a GGUF file, without its arrays."""

import struct
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from dragoman.engines.llama.weights.gguf_files import ModelSourceError
from dragoman.engines.llama.weights.gguf_header import ARRAY, HEAD, MAGIC, STRING, VALUE_SIZES, VERSIONS
from dragoman.prompt.named_templates import join_templates

_MAX_TEXT_BYTES = 2**20

_MAX_TOTAL_TEXT_BYTES = 32 * 2**20
"""Of all text entries of a file, which a client may have made: they are held in memory together."""

_MAX_ARRAY_TEXTS = 2**22
"""Of all arrays of a file, which take a second. The largest vocabularies have an eighth, with their merges."""


_LAYOUTS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""Value type → its layout, for all types of numbers and truth values."""


def read_text_metadata(path: Path, *, max_parts: int = sys.maxsize) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of each text entry, like `read_metadata`. Raises ModelSourceError."""
    return ((key, value) for key, value in read_metadata(path, max_parts=max_parts) if isinstance(value, str))


def read_metadata(path: Path, *, max_parts: int = sys.maxsize) -> Iterator[tuple[str, str | float]]:
    """Yield the key and the value of each entry of a GGUF file's metadata, without arrays. Raises ModelSourceError.

    A file with more than `max_parts` tensors or entries is refused.
    """
    return ((key, value) for key, _, value in read_typed_metadata(path, max_parts=max_parts) if value is not None)


def read_typed_metadata(path: Path, *, max_parts: int = sys.maxsize) -> Iterator[tuple[str, int, str | float | None]]:
    """Yield the key, the value's type and the value of each entry, None for an array. Raises ModelSourceError.

    The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
    """
    try:
        with path.open("rb") as file:
            magic, version, tensors, entries = HEAD.unpack(file.read(HEAD.size))
            if magic != MAGIC or version not in VERSIONS:
                raise ModelSourceError(f"{path.name} is not a GGUF file of version 2 or 3")
            total = texts = 0
            _check_parts(path, max(tensors, entries), max_parts)
            for _ in range(entries):
                key = _read_text(file)
                [kind] = _read_struct(file, "<I")
                if kind == STRING:
                    text = _read_text(file)
                    total += len(key) + len(text)
                    if total > _MAX_TOTAL_TEXT_BYTES:
                        raise ModelSourceError(f"{path.name} has more than {_MAX_TOTAL_TEXT_BYTES} bytes of metadata")
                    yield key, kind, text
                elif kind == ARRAY:
                    yield key, kind, None
                    kind, count = _read_struct(file, "<IQ")
                    texts += count if kind == STRING else 0
                    _check_parts(path, texts, _MAX_ARRAY_TEXTS)
                    _skip_values(file, kind, count)
                elif kind in _LAYOUTS:
                    yield key, kind, _read_struct(file, _LAYOUTS[kind])[0]
                else:
                    raise struct.error
    except OSError as error:
        raise ModelSourceError(f"{path.name} cannot be read: {error.strerror}") from error
    except (struct.error, ValueError) as error:  # ValueError: a position beyond any file
        raise ModelSourceError(f"{path.name} is not a whole GGUF file") from error


def whole_metadata(path: Path) -> Mapping[str, str | float]:
    """Return what `read_metadata` yields, and read no file twice that is the same. Raises ModelSourceError."""
    try:
        state = path.stat()
    except OSError as error:
        raise ModelSourceError(f"{path.name} cannot be read: {error.strerror}") from error
    return _whole_metadata(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1)
def _whole_metadata(path: Path, *_state: int) -> Mapping[str, str | float]:
    return dict(read_metadata(path))


def architecture(path: Path) -> str:
    """Return the architecture of the model in the file, by llama.cpp's name. Raises ModelSourceError."""
    for key, value in read_text_metadata(path):
        if key == "general.architecture":
            return value
    raise ModelSourceError(f"{path.name} does not say its architecture")


def chat_template(path: Path) -> str | None:
    """Return the chat template of the model in the file, with its template for tools if there is one.

    None: it has none. Raises ModelSourceError.
    """
    texts = dict(read_text_metadata(path))
    return join_templates(texts.get("tokenizer.chat_template"), texts.get("tokenizer.chat_template.tool_use"))


def _read_struct(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _read_text(file: BinaryIO) -> str:
    [length] = _read_struct(file, "<Q")
    if length > _MAX_TEXT_BYTES:
        raise struct.error
    return file.read(length).decode(errors="replace")


def _skip_values(file: BinaryIO, kind: int, count: int) -> None:
    if kind == STRING:
        for _ in range(count):
            _read_text(file)
    elif kind in VALUE_SIZES:
        file.seek(count * VALUE_SIZES[kind], 1)
    else:
        raise struct.error


def _check_parts(path: Path, parts: int, max_parts: int) -> None:
    if parts > max_parts:
        raise ModelSourceError(f"{path.name} has more than {max_parts} tensors, entries or texts")
