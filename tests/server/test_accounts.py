import stat
from pathlib import Path

import pytest

from dragoman.accounts.database import Database
from dragoman.accounts.migrations import require_current
from dragoman.server.accounts import AccountsUnusable, accounts_place
from dragoman.server.settings import AccountsSettings


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "dragoman"


def test_without_a_database_there_are_no_accounts() -> None:
    assert accounts_place(AccountsSettings()) is None


def test_the_default_file_is_among_the_users_data_with_its_journals_beside_it(data: Path) -> None:
    place = accounts_place(AccountsSettings("sqlite"))
    assert place is not None
    assert place == (f"sqlite:///{data}/accounts.db", data / "accounts.db.journals")
    for _ in range(2):
        place.prepare()
    assert stat.S_IMODE(data.stat().st_mode) == stat.S_IMODE(place.journals.stat().st_mode) == 0o700
    database = Database(place.url)
    require_current(database)
    database.close()


def test_journals_of_postgresql_are_told_apart_by_all_of_the_url_but_the_password(data: Path) -> None:
    urls = ["postgresql://u:one@h/a", "postgresql://u:two@h/a", "postgresql://u:one@h/b"]
    places = [accounts_place(AccountsSettings(url)) for url in urls]
    first, second, third = [place.journals for place in places if place is not None]
    assert first == second != third
    assert first.parent == data / "journals"


def test_journals_are_where_the_settings_say(data: Path) -> None:
    place = accounts_place(AccountsSettings("sqlite:///a.db", journals="elsewhere"))
    assert place is not None
    assert place.journals == Path("elsewhere").absolute()


@pytest.mark.parametrize("url", ["nonsense", "mysql://h/a", "sqlite://"])
def test_what_is_no_database_is_told_without_its_password(url: str) -> None:
    with pytest.raises(AccountsUnusable, match=r"^accounts\.database: "):
        accounts_place(AccountsSettings(url))
