"""What one client's adapters may not take from others: time, and their files."""

import asyncio
import struct
from pathlib import Path

import pytest

from dragoman.engines.llama.weights.adapter_files import LocalAdapterStore, read_adapter
from dragoman.engines.llama.weights.gguf_files import ModelSourceError
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


async def test_two_workers_register_one_owners_adapters_one_after_the_other(tmp_path: Path) -> None:
    # Each worker has a store of its own.
    first, second = (LocalAdapterStore(None, downloads=True, download_dir=tmp_path / "downloads") for _ in range(2))
    async with first.registering("account 1"):
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS), second.registering("account 2"):
            pass
        waiting = asyncio.create_task(_enter(second, "account 1"))
        await asyncio.sleep(0.3)
        assert not waiting.done()
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await waiting


async def _enter(store: LocalAdapterStore, owner: str) -> None:
    async with store.registering(owner):
        pass


@pytest.mark.parametrize("part", ["tensors", "entries", "texts"])
def test_an_adapter_with_very_many_parts_is_refused(tmp_path: Path, part: str) -> None:
    # llama.cpp compares the name of each with those of all before it, between two steps: 100,000 take half a minute.
    path, count = tmp_path / "many.gguf", 2**22 + 1 if part == "texts" else 20_000
    tensors, entries = count if part == "tensors" else 0, count if part == "entries" else 1
    texts = struct.pack("<Qc", 1, b"a") + struct.pack("<IIQ", 9, 8, count)
    numbers = b"".join(struct.pack("<Q5sIB", 5, b"%05d" % number, 0, 1) for number in range(20_000))
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, tensors, entries) + (texts if part == "texts" else numbers))
    with pytest.raises(ModelSourceError, match=r"^many\.gguf has more than (16384|4194304) tensors, entries or texts"):
        read_adapter(path)
