"""The folder of a running server: locked while it lives, made again when it is removed, swept when it was killed."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragoman.server.runtime_folder import RuntimeFolder, RuntimeFolderError, folders_in_use


def _abandon(parent: Path) -> Path:
    """Leave a folder as a killed server does: with content, and unlocked."""
    path = parent / "dragoman-run-abcdefgh"
    path.mkdir()
    path.joinpath("engine-0.sock").touch()
    return path


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for that of a socket, which pytest's own may not."""
    with tempfile.TemporaryDirectory(prefix="d-", dir="/tmp") as folder:
        yield Path(folder)


def test_a_start_removes_the_folders_of_killed_servers_and_no_others(short_path: Path) -> None:
    with RuntimeFolder.create([short_path]) as running:
        abandoned = _abandon(short_path)
        other_program = short_path / "dragoman-notes"
        link = short_path / "dragoman-run-link"
        other_program.mkdir()
        link.symlink_to(other_program)
        with RuntimeFolder.create([short_path]) as second:
            assert not abandoned.exists()
            assert set(short_path.iterdir()) == {running.path, second.path, other_program, link}
            assert set(folders_in_use([short_path])) == {running.path, second.path}
    assert set(short_path.iterdir()) == {other_program, link}


def test_a_removed_folder_is_made_again_and_locked(short_path: Path) -> None:
    with RuntimeFolder.create([short_path]) as folder:
        assert not folder.restore()
        shutil.rmtree(folder.path)
        assert folder.restore()
        assert folder.path.stat().st_mode & 0o777 == 0o700
        assert list(folders_in_use([short_path])) == [folder.path]


def test_a_removed_folder_whose_path_somebody_else_took_is_not_used(short_path: Path) -> None:
    with RuntimeFolder.create([short_path]) as folder:
        shutil.rmtree(folder.path)
        others = short_path / "others"
        others.mkdir()
        folder.path.symlink_to(others)
        with pytest.raises(FileExistsError):
            folder.restore()
        folder.path.unlink()
        assert folder.restore()


def test_a_folder_too_deep_for_a_socket_is_passed_over_and_reported_if_it_is_the_only_one(short_path: Path) -> None:
    deep = short_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(RuntimeFolderError, match=rf"{deep} is too long for the path of a socket.*set TMPDIR"):
        RuntimeFolder.create([deep])
    shallow = Path("/tmp")
    with RuntimeFolder.create([deep, shallow]) as folder:
        assert folder.path.parent == shallow


def test_a_parent_that_is_missing_is_reported() -> None:
    with pytest.raises(RuntimeFolderError, match="No such file or directory"):
        RuntimeFolder.create([Path("/missing")])
