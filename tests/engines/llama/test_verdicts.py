import os
from pathlib import Path

import pytest

from dragoman.engines.llama.verdicts import remember_verdict, remembered_verdict

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("holds", [True, False])
def test_what_was_found_out_is_known_until_the_file_changes(model: Path, holds: bool) -> None:
    assert remembered_verdict(model, "is fast") is None
    remember_verdict(model, "is fast", holds=holds)
    assert remembered_verdict(model, "is fast") is holds
    assert remembered_verdict(model, "is small") is None
    status = model.stat()
    model.write_bytes(b"weight2")
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert remembered_verdict(model, "is fast") is None


def test_a_verdict_that_cannot_be_read_counts_as_none(model: Path, cache: Path) -> None:
    remember_verdict(model, "is fast", holds=True)
    [kept] = (cache / "verdicts").iterdir()
    for content in (b"", b"\xff", b"perhaps"):
        kept.write_bytes(content)
        assert remembered_verdict(model, "is fast") is None


def test_where_nothing_can_be_kept_nothing_is_known(model: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    remember_verdict(model, "is fast", holds=True)
    assert remembered_verdict(model, "is fast") is None
