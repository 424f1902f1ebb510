"""The format of a saved prefix: one file for one segment of KV cells.

    magic   16 bytes
    lengths two uint32, little endian: bytes of the head, and its CRC-32
    head    PrefixHead in MessagePack
    state   the cells as llama.cpp writes them, to the end of the file

Nothing is forced to the disk: what a power failure takes fails a check, and is computed again.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from dragoman.engines.llama.arrays import SequenceState, TokenArray

_MAGIC = b"dragoman prefix\x01"
_LENGTHS = struct.Struct("<II")
_FIXED_BYTES = len(_MAGIC) + _LENGTHS.size
_MAX_HEAD_BYTES = 2**26
"""A head has 4 bytes for each token, and little besides."""

_PIECE_BYTES = 2**22
"""The checksum of a piece is computed while it is in the processor's cache."""

SUFFIX = ".prefix"
"""Ends the name of a file."""

PARTIAL_SUFFIX = ".partial"
"""Ends the name of a file that is being written."""


class PrefixHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says about its cells."""

    fingerprint: str
    """Of everything that determines the cells."""
    adapter: str
    """The content of the adapter that computed them. Empty: none did."""
    scope: str
    """A digest of whose they are."""
    public_tokens: int
    """As in batching.host_cache.SharingScope."""
    start: int
    """The position of the first cell."""
    tokens: bytes
    """int32[tokens], little endian, from the beginning of the sequence."""
    state_bytes: int
    state_checksum: int
    """CRC-32: it shows damage, and no forgery."""

    @property
    def token_array(self) -> TokenArray:
        """The tokens as the engine has them."""
        return np.frombuffer(self.tokens, dtype="<i4").astype(np.int32)


class UnusablePrefix(Exception):
    """A file is no saved prefix, or a damaged one. The message says what is wrong with it."""


class WritingStopped(Exception):
    """The process ends, and a file was not written in time."""


def checksum(state: SequenceState) -> int:
    """Return the CRC-32 of the state."""
    return zlib.crc32(state.data)


def file_bytes(head: PrefixHead) -> int:
    """Return the size of a file with this head."""
    return _FIXED_BYTES + len(msgspec.msgpack.encode(head)) + head.state_bytes


def write_prefix(path: Path, head: PrefixHead, state: SequenceState, is_stopped: Callable[[], bool]) -> None:
    """Write a file that only its user may read. It has its name when it is complete.

    Raises OSError, or WritingStopped soon after `is_stopped` turns true. Then nothing remains of it.
    """
    encoded = msgspec.msgpack.encode(head)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for piece in (_MAGIC, _LENGTHS.pack(len(encoded), zlib.crc32(encoded)), encoded):
                _write_whole(file.fileno(), memoryview(piece))
            view = state.data
            for start in range(0, len(view), _PIECE_BYTES):
                if is_stopped():
                    raise WritingStopped
                _write_whole(file.fileno(), view[start : start + _PIECE_BYTES])
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def read_head(path: Path) -> PrefixHead:
    """Read what a file says about its cells. Raises OSError or UnusablePrefix."""
    with path.open("rb") as file:
        head, offset = _read_head(file.fileno())
        size = os.fstat(file.fileno()).st_size
    if size != offset + head.state_bytes:
        raise UnusablePrefix(f"it has {size} bytes instead of {offset + head.state_bytes}")
    return head


def read_prefix(path: Path) -> tuple[PrefixHead, SequenceState]:
    """Read a whole file. Raises OSError or UnusablePrefix."""
    with path.open("rb", buffering=0) as file:
        head, offset = _read_head(file.fileno())
        if os.fstat(file.fileno()).st_size != offset + head.state_bytes:
            raise UnusablePrefix(f"it does not end after {head.state_bytes} bytes of KV cells")
        file.seek(offset)
        state = np.empty(head.state_bytes, dtype=np.uint8)
        view, filled, computed = state.data, 0, 0
        while filled < len(view):
            count = file.readinto(view[filled : filled + _PIECE_BYTES])
            if not count:
                raise UnusablePrefix("it became shorter while it was read")
            computed = zlib.crc32(view[filled : filled + count], computed)
            filled += count
    if computed != head.state_checksum:
        raise UnusablePrefix("the checksum of its KV cells is wrong")
    return head, state


def _read_head(descriptor: int) -> tuple[PrefixHead, int]:
    """Return the head and where the state begins. Raises OSError or UnusablePrefix."""
    begin = os.pread(descriptor, _FIXED_BYTES, 0)
    if len(begin) < _FIXED_BYTES or not begin.startswith(_MAGIC):
        raise UnusablePrefix("it does not begin as a saved prefix of this version")
    length, expected = _LENGTHS.unpack_from(begin, len(_MAGIC))
    encoded = os.pread(descriptor, min(length, _MAX_HEAD_BYTES), _FIXED_BYTES)
    if len(encoded) != length or zlib.crc32(encoded) != expected:
        raise UnusablePrefix("the checksum of its head is wrong")
    try:
        return msgspec.msgpack.decode(encoded, type=PrefixHead), _FIXED_BYTES + length
    except msgspec.DecodeError as error:
        raise UnusablePrefix(f"its head cannot be read: {error}") from error


def _write_whole(descriptor: int, view: memoryview) -> None:
    """Write all of it: one call writes 2 GiB at most, and less on a disk that becomes full."""
    while view:
        view = view[os.write(descriptor, view) :]
