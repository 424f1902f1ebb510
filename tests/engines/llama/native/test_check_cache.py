import os
from pathlib import Path

import pytest

from dragoman.engines.llama.native.check_cache import load_check, store_check

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("holds", [True, False])
def test_a_check_is_cached_until_the_file_changes(model: Path, holds: bool) -> None:
    assert load_check(model, "is fast") is None
    store_check(model, "is fast", passed=holds)
    assert load_check(model, "is fast") is holds
    assert load_check(model, "is small") is None
    status = model.stat()
    model.write_bytes(b"weight2")
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert load_check(model, "is fast") is None


def test_an_unreadable_check_counts_as_missing(model: Path, cache: Path) -> None:
    store_check(model, "is fast", passed=True)
    [kept] = (cache / "verdicts").iterdir()
    for content in (b"", b"\xff", b"perhaps"):
        kept.write_bytes(content)
        assert load_check(model, "is fast") is None


def test_without_a_writable_cache_no_check_is_known(model: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    store_check(model, "is fast", passed=True)
    assert load_check(model, "is fast") is None
