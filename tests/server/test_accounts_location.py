import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import require_current
from dragoman.server.accounts_location import AccountsLocation, AccountsUnavailable, accounts_location
from dragoman.server.doctor import examine
from dragoman.server.settings import AccountsSettings, Settings
from tests.support.captured_logs import capture_logs
from tests.support.postgresql import PostgresServer, new_database


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "dragoman"


def test_without_a_database_there_are_no_accounts() -> None:
    assert accounts_location(AccountsSettings()) is None


def test_the_default_file_is_in_the_data_directory_with_its_journals_beside_it(data: Path) -> None:
    location = accounts_location(AccountsSettings(database="sqlite"))
    assert location is not None
    assert location == (f"sqlite:///{data}/accounts.db", data / "accounts.db.journals")
    for _ in range(2):
        location.prepare()
    assert stat.S_IMODE(data.stat().st_mode) == stat.S_IMODE(location.journal_dir.stat().st_mode) == 0o700
    database = Database(location.url)
    require_current(database)
    database.close()


def test_workers_that_start_together_all_find_a_new_database_prepared(data: Path) -> None:
    location = accounts_location(AccountsSettings(database="sqlite"))
    assert location is not None
    with ThreadPoolExecutor(4) as threads:
        for prepared in [threads.submit(location.prepare) for _ in range(4)]:
            prepared.result()
    database = Database(location.url)
    require_current(database)
    database.close()


def test_postgresql_urls_that_differ_in_more_than_the_password_have_journals_of_their_own(data: Path) -> None:
    urls = ["postgresql://u:one@h/a", "postgresql://u:two@h/a", "postgresql://u:one@h/b"]
    locations = [accounts_location(AccountsSettings(database=url)) for url in urls]
    first, second, third = [location.journal_dir for location in locations if location is not None]
    assert first == second != third
    assert first.parent == data / "journals"


def test_the_settings_can_place_the_journals(data: Path) -> None:
    location = accounts_location(AccountsSettings(database="sqlite:///a.db", journal_dir="elsewhere"))
    assert location is not None
    assert location.journal_dir == Path("elsewhere").absolute()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "nonsense",
            "mysql://h/a",
            "sqlite://",
            "sqlite:///:memory:",
            "sqlite:///a.db?mode=ro",
            "sqlite:///a?timeout=x",
        ),
        *("postgresql://u:secret@h:port/a", "postgresql://u:secret@h/a?foo=secret"),
    ],
)
def test_an_invalid_database_url_is_reported_without_its_password(url: str) -> None:
    with pytest.raises(AccountsUnavailable, match=r"^accounts\.database: ") as raised:
        accounts_location(AccountsSettings(database=url))
    assert "secret" not in str(raised.value)


def test_existing_files_are_closed_to_other_users_with_one_log_line(data: Path) -> None:
    location = accounts_location(AccountsSettings(database="sqlite"))
    assert location is not None
    location.prepare()
    for path in (data, location.journal_dir, data / "accounts.db", location.journal_dir / "1.journal-1"):
        path.touch() if path.suffix == ".journal-1" else None
        path.chmod(0o755)
    with capture_logs() as logs:
        location.prepare()
        location.prepare()
    assert [log["event"] for log in logs] == ["permissions_restricted"]
    assert stat.S_IMODE(data.stat().st_mode) == stat.S_IMODE(location.journal_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((data / "accounts.db").stat().st_mode) == 0o600


def test_a_folder_with_other_files_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "notes").touch()
    AccountsLocation(f"sqlite:///{tmp_path}/accounts.db", tmp_path / "journals").prepare()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_what_is_not_the_databases_keeps_its_rights(tmp_path: Path) -> None:
    folder, journals = tmp_path / "data", tmp_path / "shared"
    others = [folder / "accounts-of-another", journals / "notes"]
    for path in others:
        path.parent.mkdir()
        path.touch()
    for path in (folder, journals, *others):
        path.chmod(0o755)
    AccountsLocation(f"sqlite:///{folder}/accounts", journals).prepare()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, journals, *others)] == [0o755] * 4


def test_a_file_that_is_no_database_keeps_its_rights(tmp_path: Path) -> None:
    file = tmp_path / "hostname"
    file.write_text("a text")
    file.chmod(0o644)
    with pytest.raises(AccountsUnavailable):
        AccountsLocation(f"sqlite:///{file}", tmp_path / "journals").prepare()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_a_database_that_cannot_be_written_is_refused_by_the_start_and_by_the_doctor(
    postgresql: PostgresServer, tmp_path: Path
) -> None:
    url = new_database(postgresql)
    AccountsLocation(url, tmp_path / "journals").prepare()
    read_only = f"{url}{'&' if '?' in url else '?'}options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(AccountsUnavailable, match=r"cannot be used: .* read-only transaction"):
        AccountsLocation(read_only, tmp_path / "journals").prepare()
    accounts = AccountsSettings(database=read_only, journal_dir=str(tmp_path / "journals"))
    [finding] = [each for each in examine(Settings(model="echo", accounts=accounts)) if each.subject == "database"]
    assert (finding.state, "read-only transaction" in finding.message) == ("failed", True)


@pytest.mark.parametrize("content", [b"damaged!" * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "accounts.db").write_bytes(content)
    with pytest.raises(AccountsUnavailable, match=r"^the accounts' database cannot be used: "):
        AccountsLocation(f"sqlite:///{tmp_path}/accounts.db", tmp_path / "journals").prepare()


def test_a_user_without_a_home_directory_has_no_default_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "~nobody-of-this-name")
    with pytest.raises(AccountsUnavailable, match="XDG_DATA_HOME"):
        accounts_location(AccountsSettings(database="sqlite"))
