"""Measure this process's memory, and give what holds only zeros back to the system.

llama.cpp writes zeros over a new KV cache and its compute buffers, so that all their pages are resident from the start.
A page that is given back reads as zeros, and becomes resident again when a token needs it.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

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


def release_zeros() -> int:
    """Give back the chunks of large private mappings that hold only zeros; return their bytes. Other systems: nothing.

    Call it while no other thread computes: what one writes into a chunk at the same moment would be lost.
    """
    if sys.platform != "linux":
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    try:
        chunks = [chunk for start, end in _large_mappings() for chunk in _resident_chunks(start, end)]
        memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # A system without /proc, or which keeps it from us.
        return 0
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
