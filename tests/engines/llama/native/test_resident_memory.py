import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from dragoman.engines.llama.native.resident_memory import (
    available_bytes,
    holds_only_zeros,
    new_zeros_released,
    release_zeros,
)
from dragoman.engines.llama.native.resident_memory import resident_bytes as resident_bytes_of_all

MAPPING_BYTES = 64 * 2**20
CHUNK_BYTES = 2 * 2**20


def resident_bytes(memory: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> int:
    """Return how much of a mapping is resident: a count in the system's own books."""
    address = f"{memory.ctypes.data:x}-"
    with Path("/proc/self/smaps").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(address):
                return next(int(each.split()[1]) * 1024 for each in lines if each.startswith("Rss:"))
    raise AssertionError("the mapping is missing")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked for")
def test_memory_of_zeros_is_given_back_and_everything_else_stays() -> None:
    with mmap.mmap(-1, MAPPING_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapping:
        mapping.madvise(mmap.MADV_DONTFORK)  # Apart from its neighbours in the system's books.
        memory = np.frombuffer(mapping, dtype=np.uint8)
        memory[:] = 0
        memory[5 * CHUNK_BYTES + 17] = 3
        assert resident_bytes(memory) == MAPPING_BYTES
        assert release_zeros() >= MAPPING_BYTES - 2 * CHUNK_BYTES
        assert CHUNK_BYTES <= resident_bytes(memory) <= 2 * CHUNK_BYTES
        assert memory[5 * CHUNK_BYTES + 17] == 3
        assert np.count_nonzero(memory) == 1
        del memory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked for")
def test_the_memory_of_a_process_grows_by_what_it_writes() -> None:
    before = resident_bytes_of_all()
    with mmap.mmap(-1, MAPPING_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapping:
        memory = np.frombuffer(mapping, dtype=np.uint8)
        memory[:] = 1
        assert resident_bytes_of_all() - before > MAPPING_BYTES // 2
        del memory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked for")
def test_memory_that_was_given_back_meanwhile_is_left_alone() -> None:
    with mmap.mmap(-1, MAPPING_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapping:
        memory = np.frombuffer(mapping, dtype=np.uint8)
        address = memory.ctypes.data
        descriptor = os.open("/proc/self/mem", os.O_RDONLY)
        assert holds_only_zeros(descriptor, address, CHUNK_BYTES)
        memory[17] = 3
        assert not holds_only_zeros(descriptor, address, CHUNK_BYTES)
        del memory
    assert not holds_only_zeros(descriptor, address, CHUNK_BYTES)
    os.close(descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked for")
def test_only_zeros_that_are_mapped_meanwhile_are_given_back() -> None:
    mappings = []
    for size, apart in ((MAPPING_BYTES, mmap.MADV_DONTDUMP), (2 * MAPPING_BYTES, mmap.MADV_DONTFORK)):
        with new_zeros_released(2 * MAPPING_BYTES):
            mapping = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            mapping.madvise(apart)
            memory = np.frombuffer(mapping, dtype=np.uint8)
            memory[:] = 0
            memory[3] = 1
        mappings.append((mapping, memory))
    small, large = (memory for _, memory in mappings)
    assert resident_bytes(small) >= MAPPING_BYTES, "it was smaller than what is looked for"
    assert resident_bytes(large) <= 2 * CHUNK_BYTES
    assert np.count_nonzero(large) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked for")
def test_available_memory_is_less_than_the_machine_has() -> None:
    assert 0 < available_bytes() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
