import stat
from pathlib import Path

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import require_current
from dragoman.server.accounts_location import AccountsUnavailable, accounts_location
from dragoman.server.settings import AccountsSettings


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "dragoman"


def test_without_a_database_there_are_no_accounts() -> None:
    assert accounts_location(AccountsSettings()) is None


def test_the_default_file_is_in_the_data_directory_with_its_journals_beside_it(data: Path) -> None:
    location = accounts_location(AccountsSettings("sqlite"))
    assert location is not None
    assert location == (f"sqlite:///{data}/accounts.db", data / "accounts.db.journals")
    for _ in range(2):
        location.prepare()
    assert stat.S_IMODE(data.stat().st_mode) == stat.S_IMODE(location.journal_dir.stat().st_mode) == 0o700
    database = Database(location.url)
    require_current(database)
    database.close()


def test_postgresql_urls_that_differ_in_more_than_the_password_have_journals_of_their_own(data: Path) -> None:
    urls = ["postgresql://u:one@h/a", "postgresql://u:two@h/a", "postgresql://u:one@h/b"]
    locations = [accounts_location(AccountsSettings(url)) for url in urls]
    first, second, third = [location.journal_dir for location in locations if location is not None]
    assert first == second != third
    assert first.parent == data / "journals"


def test_the_settings_can_place_the_journals(data: Path) -> None:
    location = accounts_location(AccountsSettings("sqlite:///a.db", journal_dir="elsewhere"))
    assert location is not None
    assert location.journal_dir == Path("elsewhere").absolute()


@pytest.mark.parametrize("url", ["nonsense", "mysql://h/a", "sqlite://"])
def test_an_invalid_database_url_is_reported_without_its_password(url: str) -> None:
    with pytest.raises(AccountsUnavailable, match=r"^accounts\.database: "):
        accounts_location(AccountsSettings(url))
