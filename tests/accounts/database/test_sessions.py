from pathlib import Path

import psutil
import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.database.sessions import sync_log
from dragoman.accounts.database.statements import Statement


def test_commits_are_synced_with_and_without_a_log(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/accounts.db")
    upgrade(database)
    sync_log(database.path)
    database.close()
    assert not (tmp_path / "accounts.db-wal").exists()
    sync_log(database.path)


def test_a_closed_session_has_no_file_open_though_the_traceback_of_an_error_refers_to_it(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/accounts.db")
    upgrade(database)
    database.close()
    session = database.session()
    session.begin()
    with pytest.raises(database.data_errors) as error:
        session.write(Statement("INSERT INTO accounts (id) VALUES (1)", ()))
    session.close()
    assert error.traceback
    assert [file.path for file in psutil.Process().open_files() if file.path.startswith(str(tmp_path))] == []
