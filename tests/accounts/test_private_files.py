import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragoman.accounts.administration.accounts import create_account
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.private_files import create_private_folder, restrict_to_owner
from dragoman.accounts.process.journal import JournalFolder


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_database_log_and_journals_are_for_their_user_only_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    create_private_folder(folder)
    database = Database(f"sqlite:///{folder}/accounts.db")
    upgrade(database)
    create_account(database, "acme")
    journal = JournalFolder(folder / "journals").create(1)
    journal.open("request")
    paths = sorted(folder.rglob("*"))
    assert {path.name for path in paths} > {"accounts.db", "accounts.db-wal", "accounts.db-shm", "machine", "lock"}
    assert {path: _mode(path) for path in paths if path.is_file()} == {path: 0o600 for path in paths if path.is_file()}
    assert {_mode(path) for path in (folder.parent, folder, folder / "journals")} == {0o700}
    journal.close()
    database.close()


def test_only_what_others_may_use_is_changed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    paths = [tmp_path, tmp_path / "open", tmp_path / "closed", tmp_path / "sticky", tmp_path / "missing"]
    paths[1].touch(0o644)
    paths[2].touch(0o600)
    paths[3].mkdir()
    paths[3].chmod(0o1777)
    assert restrict_to_owner(paths) == paths[:2]
    assert [_mode(path) for path in paths[:4]] == [0o700, 0o600, 0o600, 0o1777]


def test_a_file_in_a_folders_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        create_private_folder(tmp_path / "file")
