import asyncio
import hashlib
import os
import threading
from pathlib import Path

import pytest

from dragoman.engines.llama.weights.digests import (
    DigestCancelled,
    DigestComputation,
    cache_folder,
    content_digest,
    files_by_digest,
)

pytestmark = pytest.mark.usefixtures("cache")

SPLIT = ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def change_content_only(path: Path, content: bytes) -> None:
    """Leave size, time and inode as they were."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=times)


def test_a_digest_is_the_sha_256_of_the_content(file: Path) -> None:
    assert content_digest(file) == sha256(b"weights")


def test_a_file_that_looks_the_same_is_not_read_again(file: Path) -> None:
    content_digest(file)
    change_content_only(file, b"WEIGHTS")
    assert content_digest(file) == sha256(b"weights")
    assert files_by_digest() == {sha256(b"weights"): file}


def test_a_file_with_another_size_time_or_inode_is_read_again(file: Path, tmp_path: Path) -> None:
    content_digest(file)
    file.write_bytes(b"more weights")
    assert content_digest(file) == sha256(b"more weights")
    change_content_only(file, b"MORE WEIGHTS")
    os.utime(file, ns=(0, 0))
    assert content_digest(file) == sha256(b"MORE WEIGHTS")
    other = tmp_path / "other"
    other.write_bytes(b"less weights")
    os.utime(other, ns=(0, 0))
    other.replace(file)
    assert content_digest(file) == sha256(b"less weights")


def test_a_link_is_stored_as_its_target(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(file)
    assert content_digest(link) == content_digest(file)
    assert list(files_by_digest().values()) == [file]


def test_the_digest_of_a_split_model_depends_on_every_part(tmp_path: Path) -> None:
    digests = set()
    for number, contents in enumerate(((b"a", b"b"), (b"a", b"c"), (b"ab", b""))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, content in zip(SPLIT, contents, strict=True):
            (folder / name).write_bytes(content)
        digests.add(content_digest(folder / SPLIT[0]))
    assert len(digests) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff"])
def test_a_damaged_index_is_replaced(file: Path, cache: Path, content: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / "digests.json").write_bytes(content)
    assert content_digest(file) == sha256(b"weights")
    assert files_by_digest() == {sha256(b"weights"): file}
    assert [path.name for path in cache.iterdir()] == ["digests.json"]


def test_digests_are_computed_even_if_the_cache_cannot_be_written(file: Path, cache: Path) -> None:
    cache.parent.write_bytes(b"a file where the folder should be")
    assert content_digest(file) == sha256(b"weights")
    assert files_by_digest() == {}


def test_deleted_files_are_removed_from_the_index(file: Path, tmp_path: Path) -> None:
    content_digest(file)
    file.unlink()
    assert files_by_digest() == {}
    later = tmp_path / "later"
    later.write_bytes(b"later")
    content_digest(later)
    assert files_by_digest() == {sha256(b"later"): later}


def test_many_threads_store_digests_together(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(8)]
    for path in files:
        path.write_bytes(path.name.encode())
    threads = [threading.Thread(target=content_digest, args=(path,)) for path in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [content_digest(path) for path in files] == [sha256(path.name.encode()) for path in files]


async def test_digests_come_from_a_thread_in_the_order_of_the_files(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "library.so"
    other.write_bytes(b"code")
    with DigestComputation((file, other)) as digesting:
        assert await digesting.digests() == [sha256(b"weights"), sha256(b"code")]


async def test_a_missing_file_raises_for_the_caller(tmp_path: Path) -> None:
    with DigestComputation((tmp_path / "missing",)) as digesting, pytest.raises(FileNotFoundError):
        await digesting.digests()


async def test_a_cancelled_digest_of_a_large_file_stops_soon(tmp_path: Path) -> None:
    endless = Path("/dev/zero")
    with DigestComputation((endless,)) as digesting:
        waiting = asyncio.create_task(digesting.digests())
    with pytest.raises(DigestCancelled):
        await waiting


def test_the_cache_is_in_the_configured_folder_or_under_the_home(
    monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path
) -> None:
    assert cache_folder() == cache
    monkeypatch.setenv("HOME", str(tmp_path))
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder() == tmp_path / ".cache" / "dragoman"
