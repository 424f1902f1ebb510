"""The header of a GGUF file: its tensors, their formats and their positions.

The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. The
gguf package's own reader makes an array of every string in the file, which takes two seconds for a vocabulary of
50,000 tokens. This reader skips them, since every start of the server waits for it.
"""

import mmap
import struct
from pathlib import Path

import msgspec

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32

VERSIONS = (2, 3)
FLOAT32, STRING, ARRAY = 6, 8, 9
VALUE_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Value type → bytes, for all types with values of a fixed size."""

_MAX_DIMENSIONS = 4
_UINT32 = 4

HEAD = struct.Struct("<4sIQQ")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class HeaderError(Exception):
    """The file is not a GGUF file that this reader understands. The message is one line for the user."""


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of the file."""

    name: bytes
    shape: tuple[int, ...]
    """In the order of the file: the length of a row comes first."""
    type: int
    """A gguf.GGMLQuantizationType, or a newer number."""
    start: int
    """The position of its data, in bytes from the beginning of the file."""
    size: int
    """Bytes up to the next tensor's data, or the end of the file."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the file before the tensors' data."""

    version: int
    entries: int
    """The number of entries in the metadata."""
    metadata: bytes
    """All metadata entries, as in the file."""
    uint32_offsets: dict[str, int]
    """Key of an entry of the type uint32 → position of its value in `metadata`."""
    alignment: int
    """The data of every tensor begins at a multiple of this number of bytes."""
    tensors: tuple[Tensor, ...]

    def uint32(self, key: str) -> int | None:
        """Return the value of an entry of the type uint32. None if there is none."""
        offset = self.uint32_offsets.get(key)
        return None if offset is None else int(_U32.unpack_from(self.metadata, offset)[0])


def read_header(path: Path) -> Header:
    """Read the header, and skip its long values. Raises HeaderError or OSError."""
    with path.open("rb") as file:
        if not (size := file.seek(0, 2)):
            raise HeaderError(f"{path} is empty")
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
            try:
                return _HeaderReader(content).read()
            except (HeaderError, struct.error, OverflowError) as error:
                raise HeaderError(f"{path} has no GGUF header that can be read: {error}") from error


class _HeaderReader:
    """Reads the header from front to back."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._position = 0

    def read(self) -> Header:
        magic, version, tensor_count, entries = HEAD.unpack_from(self._content)
        if magic != MAGIC or version not in VERSIONS:
            raise HeaderError(f"it begins with {magic!r} and version {version}")
        self._position = metadata_start = HEAD.size
        uint32_offsets = {}
        for _ in range(entries):
            key, value_offset = self._entry()
            if value_offset is not None:
                uint32_offsets[key.decode(errors="replace")] = value_offset - metadata_start
        metadata = self._content[metadata_start : self._position]
        alignment = DEFAULT_ALIGNMENT
        if (value_offset := uint32_offsets.get("general.alignment")) is not None:
            (alignment,) = _U32.unpack_from(metadata, value_offset)
        if not alignment:
            raise HeaderError("its tensors are aligned to 0 bytes")
        return Header(
            version=version,
            entries=entries,
            metadata=metadata,
            uint32_offsets=uint32_offsets,
            alignment=alignment,
            tensors=self._tensors(tensor_count, alignment),
        )

    def _entry(self) -> tuple[bytes, int | None]:
        """Read an entry's key, and the position of its value if that is a uint32."""
        key = self._string()
        kind = self._number(_U32)
        value_offset = self._position
        if kind == ARRAY:
            kind, count = self._number(_U32), self._number(_U64)
            self._skip_values(kind, count)
            return key, None
        self._skip_values(kind, 1)
        return key, value_offset if kind == _UINT32 else None

    def _skip_values(self, kind: int, count: int) -> None:
        if (size := VALUE_SIZES.get(kind)) is not None:
            self._skip(count * size)
            return
        if kind != STRING:
            raise HeaderError(f"it holds values of the unknown type {kind}")
        content, position, read_length = self._content, self._position, _U64.unpack_from
        for _ in range(count):
            position += 8 + read_length(content, position)[0]
        self._skip(position - self._position)

    def _tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        infos = [self._tensor_info() for _ in range(count)]
        data = -(-self._position // alignment) * alignment
        starts = sorted({data + offset for *_, offset in infos})
        ends = dict(zip(starts, [*starts[1:], len(self._content)], strict=True))
        if starts and starts[-1] > len(self._content):
            raise HeaderError(f"it ends before byte {starts[-1]}, where its last tensor begins")
        return tuple(
            Tensor(
                name=name,
                shape=shape,
                type=kind,
                start=data + offset,
                size=ends[data + offset] - data - offset,
            )
            for name, shape, kind, offset in infos
        )

    def _tensor_info(self) -> tuple[bytes, tuple[int, ...], int, int]:
        name = self._string()
        if (dimensions := self._number(_U32)) > _MAX_DIMENSIONS:
            raise HeaderError(f"a tensor has {dimensions} dimensions")
        shape = tuple(self._number(_U64) for _ in range(dimensions))
        return name, shape, self._number(_U32), self._number(_U64)

    def _string(self) -> bytes:
        length = self._number(_U64)
        start = self._position
        self._skip(length)
        return self._content[start : self._position]

    def _number(self, kind: struct.Struct) -> int:
        value: int = kind.unpack_from(self._content, self._position)[0]
        self._position += kind.size
        return value

    def _skip(self, size: int) -> None:
        self._position += size
        if self._position > len(self._content):
            raise HeaderError(f"it ends before byte {self._position}, where its header goes on")
