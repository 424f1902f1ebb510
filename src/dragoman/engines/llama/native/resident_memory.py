"""Measure this process's memory, and give what holds only zeros back to the system.

llama.cpp writes zeros over a new KV cache and its compute buffers, so that all their pages are resident from the start.
A page that is given back reads as zeros, and becomes resident again when a token needs it.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

_MIN_MAPPING_BYTES = 32 * 2**20
"""Smaller mappings are not worth the search: they belong to the interpreter and its threads."""

_CHUNK_BYTES = 2 * 2**20
"""What is given back at once. It holds nothing of another thread, which would have left something else than zeros."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_IS_PRESENT = np.uint64(1 << 63)
"""In an entry of /proc/self/pagemap."""

_MADV_DONTNEED = 4
"""From <linux/mman.h>."""


def resident_bytes() -> int:
    """Return the memory of this process, with the pages of files that it maps; 0 on a system without /proc."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def available_bytes() -> int:
    """Return how much more memory this process may take, by the machine and by its control groups; 0 without /proc."""
    try:
        [available] = (
            int(line.split()[1]) * 1024
            for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
            if line.startswith("MemAvailable:")
        )
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return 0
    return min(available, *(_bytes_left(folder, names) for folder, names in _memory_groups(groups)))


class _GroupFiles(NamedTuple):
    """What a version of control groups calls its files, and the page cache in memory.stat that can be taken back."""

    limit: str
    used: str
    reclaimable: str


_CGROUP_ROOT = Path("/sys/fs/cgroup")
_VERSION_1 = _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _GroupFiles("memory.max", "memory.current", "inactive_file")


def _memory_groups(lines: Iterable[str]) -> Iterator[tuple[Path, _GroupFiles]]:
    """Yield the folders of the groups in /proc/self/cgroup, and of those around them, that may limit memory."""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root, names = (_CGROUP_ROOT, _VERSION_2) if not controllers else (_CGROUP_ROOT / "memory", _VERSION_1)
        if not controllers or "memory" in controllers.split(","):
            # In a container the path may be that of the host, while only the container's own group is mounted.
            parts = Path(path.strip("/")).parts
            yield from ((root.joinpath(*parts[:count]), names) for count in range(len(parts) + 1))


def _bytes_left(group: Path, names: _GroupFiles) -> int:
    """Return what the members of a control group may still take; much if it has no limit."""
    try:
        limit = int((group / names.limit).read_text(encoding="ascii"))
        used = int((group / names.used).read_text(encoding="ascii"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # ValueError: "max"
        return sys.maxsize
    return max(0, limit - used + int(statistics[names.reclaimable]))


def release_zeros() -> int:
    """Give back the chunks of large private mappings that hold only zeros; return their bytes. Other systems: nothing.

    Call it while no other thread computes: what one writes into a chunk at the same moment would be lost.
    """
    with contextlib.suppress(OSError):  # A system without /proc, or which keeps it from us.
        return _release_zeros(_large_mappings())
    return 0


@contextlib.contextmanager
def new_zeros_released(size: int) -> Iterator[None]:
    """Release the zeros in memory that is mapped meanwhile, if it is at least `size` bytes in one piece.

    Other threads may compute, as long as they map nothing so large.
    """
    before = _mappings_or_none()
    yield
    if before is not None and (after := _mappings_or_none()) is not None:
        _release_zeros(piece for piece in _without(after, before) if piece[1] - piece[0] >= size)


def _mappings_or_none() -> list[tuple[int, int]] | None:
    with contextlib.suppress(OSError):
        return list(_large_mappings())
    return None


def _without(mappings: Iterable[tuple[int, int]], others: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return what the mappings have besides the others. The system joins a new one with one beside it."""
    pieces = list(mappings)
    for first, last in others:
        pieces = [
            piece
            for start, end in pieces
            for piece in ((start, min(end, first)), (max(start, last), end))
            if piece[0] < piece[1]
        ]
    return pieces


def _release_zeros(mappings: Iterable[tuple[int, int]]) -> int:
    """Give back the chunks of these mappings that hold only zeros. Raises OSError."""
    if sys.platform != "linux":
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    chunks = [chunk for start, end in mappings for chunk in _resident_chunks(start, end)]
    memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    released = 0
    try:
        for address, size in chunks:
            if holds_only_zeros(memory, address, size) and madvise(address, size, _MADV_DONTNEED) == 0:
                released += size
    finally:
        os.close(memory)
    return released


def holds_only_zeros(memory: int, address: int, size: int) -> bool:
    """Whether so many bytes of memory are there and zero. `memory` is a descriptor of /proc/self/mem.

    Reading them by their address would end the process if another thread had unmapped them meanwhile, such as one that
    ends and gives back its stack.
    """
    try:
        content = os.pread(memory, size, address)
    except OSError:
        return False
    return len(content) == size and not np.frombuffer(content, dtype=np.uint64).any()


def _large_mappings() -> Iterator[tuple[int, int]]:
    """Yield the first address of each private, writable mapping without a file, and that behind it."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, permissions, _offset, _device, _inode, *name = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in addresses.split("-"))
        if permissions == "rw-p" and not name and end - start >= _MIN_MAPPING_BYTES:
            yield start, end


def _resident_chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield address and bytes of each chunk with a page that is resident: reading others would make them so."""
    with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
        entries = os.pread(file.fileno(), (end - start) // _PAGE_BYTES * 8, start // _PAGE_BYTES * 8)
    is_present = np.frombuffer(entries, dtype=np.uint64) & _IS_PRESENT != 0
    pages = _CHUNK_BYTES // _PAGE_BYTES
    for first in range(0, len(is_present), pages):
        present = is_present[first : first + pages]
        if present.any():
            yield start + first * _PAGE_BYTES, len(present) * _PAGE_BYTES
