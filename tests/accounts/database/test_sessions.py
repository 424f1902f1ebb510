from pathlib import Path

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.database.sessions import sync_log


def test_commits_are_synced_with_and_without_a_log(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/accounts.db")
    upgrade(database)
    sync_log(database.path)
    database.close()
    assert not (tmp_path / "accounts.db-wal").exists()
    sync_log(database.path)
