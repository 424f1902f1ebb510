"""The commands that use the accounts' database, as users type them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dragoman.accounts.administration.audit_log import list_audit_entries
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import require_current
from dragoman.cli.main import app
from dragoman.server.accounts_location import accounts_location
from dragoman.server.settings_loading import load_settings
from tests.support.accounting import open_ledger_harness

Run = Callable[..., Result]

HUGE = str(2**63)
AS_IN = "; write it as in 2026-01-31 or 2026-01-31T12:00"
NEGATIVE_PRICE = "No price may be negative, and a cached prompt token may not cost more than another one"
NO_YEAR = "is not within the years 1 to 9999 in UTC"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAGOMAN_ACCOUNTS_DATABASE", f"sqlite:///{tmp_path}/data/accounts.db")
    return f"sqlite:///{tmp_path}/data/accounts.db"


@pytest.fixture
def run(url: str) -> Run:
    """Return a function that runs a command. The database has its tables."""

    def run(*arguments: str, status: int = 0) -> Result:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == status, result.output
        return result

    run("db", "upgrade")
    return run


def rows(table: str) -> list[list[str]]:
    """Return the rows of a printed table, without its header."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if line[0] == "│"]


def test_a_path_without_a_database_is_named_and_nothing_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = (
        *(["db", "verify"], ["db", "status"], ["db", "upgrade", "--check"], ["db", "backup", "copy.db"]),
        *(["db", "rebuild-usage"], ["accounts", "list"], ["accounts", "create", "acme"], ["deposit", "acme", "1"]),
        *(["keys", "create", "acme"], ["prices", "list"], ["usage"], ["jobs", "list"], ["upstreams", "list"]),
    )
    for command in commands:
        refused = CliRunner().invoke(app, [*command, "--database", "sqlite:///typo/acounts.db"])
        assert refused.exit_code == 1, command
        assert f"There is no database at {tmp_path}/typo/acounts.db" in refused.stderr, command
        assert "migration" not in refused.output, command
    assert list(tmp_path.iterdir()) == []


def test_the_tables_are_created_and_checked(url: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "accounts.db").touch()
    before = CliRunner().invoke(app, ["db", "status"])
    assert (before.exit_code, before.stdout.split()[0]) == (1, "missing")
    for command in (["accounts", "list"], ["db", "upgrade", "--check"], ["db", "verify"]):
        refused = CliRunner().invoke(app, command)
        assert refused.exit_code == 1
    assert refused.stderr == (
        "dragoman: The database has no tables of dragoman. To create them, run: dragoman db upgrade\n"
    )
    made = CliRunner().invoke(app, ["db", "upgrade"])
    assert made.stdout.startswith("applied: accounts")
    assert CliRunner().invoke(app, ["db", "upgrade"]).stdout == "nothing to do\n"
    assert CliRunner().invoke(app, ["db", "upgrade", "--check"]).stdout == "nothing to do\n"
    after = CliRunner().invoke(app, ["db", "status"])
    assert after.exit_code == 0
    assert {line.split()[0] for line in after.stdout.splitlines()} == {"applied"}


def test_an_accounts_table_means_the_same_to_the_commands_and_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    unset = CliRunner().invoke(app, ["db", "upgrade"])
    assert unset.exit_code == 2
    assert unset.stderr.startswith("dragoman: no database: the settings, ./dragoman.toml or --config FILE, have no [")
    tmp_path.joinpath("dragoman.toml").write_text("[accounts]\n")
    assert CliRunner().invoke(app, ["db", "upgrade"]).exit_code == 0
    location = accounts_location(load_settings(None, {}, {}).accounts)
    assert location is not None
    assert location.url == f"sqlite:///{tmp_path}/dragoman/accounts.db"
    database = Database(location.url)
    require_current(database)
    database.close()


@pytest.mark.usefixtures("url")
def test_a_directory_that_cannot_be_created_is_reported_in_one_line(tmp_path: Path) -> None:
    tmp_path.joinpath("data").write_text("a file")
    refused = CliRunner().invoke(app, ["db", "upgrade"])
    assert refused.exit_code == 1
    assert refused.stderr == f"dragoman: the accounts cannot be kept in {tmp_path}/data: File exists\n"


def test_money_is_paid_in_and_out_to_the_last_digit(run: Run) -> None:
    assert "balance   0.00 EUR" in run("accounts", "create", "acme", "--currency", "EUR").stdout
    assert run("deposit", "acme", "12.500000001", "--reference", "p1").stdout == (
        "acme has a balance of 12.500000001 EUR\n"
    )
    assert "12.500000001" in run("deposit", "acme", "12.500000001", "--reference", "p1").stdout
    assert run("deposit", "1", "-2.5").stdout == "acme has a balance of 10.000000001 EUR\n"
    assert rows(run("accounts", "list").stdout) == [["1", "acme", "10.000000001", "0.00", "0.00", "EUR"]]
    assert "10.000000001 EUR" in run("accounts", "show", "acme").stdout


def test_a_key_is_shown_once(run: Run) -> None:
    run("accounts", "create", "acme")
    run("accounts", "create", "other")
    limits = ["--model", "owl", "--model", "parrot", "--dialect", "arcee", "--requests-per-minute", "60"]
    money = ["--budget", "12.50", "--expires-at", "2030-01-31T12:00:00+02:00", "--other-account", "other"]
    made = run("keys", "create", "acme", "--label", "laptop", *limits, *money)
    secret = made.stdout.strip()
    assert re.fullmatch(r"sk-[\w-]{43}", secret)
    shown = run("keys", "show", "1").stdout
    for fact in ("…" + secret[-4:], "laptop", "owl, parrot", "arcee", "60", "12.50", "2030-01-31 10:00:00", "1, 2"):
        assert fact in shown
    assert secret not in shown
    [[_, key, label, account, _, state]] = rows(run("keys", "list", "--account", "other").stdout)
    assert (key, label, account, state) == (f"…{secret[-4:]}", "laptop", "1", "usable")
    assert run("keys", "revoke", "1").stdout == f"key 1 (…{secret[-4:]}) is revoked\n"
    assert "revoked 20" in run("keys", "list").stdout


def test_a_key_that_has_expired_already_is_not_created(run: Run) -> None:
    run("accounts", "create", "acme")
    refused = run("keys", "create", "acme", "--expires-at", "2020-01-01", status=1)
    assert refused.stderr.startswith("dragoman: expires_at is 2020-01-01T00:00:00+00:00, and it is 20")
    assert rows(run("keys", "list").stdout) == []


def test_prices_are_typed_and_shown_for_a_million_tokens(run: Run) -> None:
    run("prices", "set", "owl", "--prompt", "0.15", "--completion", "0.6", "--cached", "0.015")
    run("prices", "set", "owl", "--prompt", "1", "--completion", "2", "--valid-from", "2999-01-01")
    run("prices", "set", "parrot", "--prompt", "0", "--completion", "0")
    owl = rows(run("prices", "list", "--model", "owl").stdout)
    assert [row[1:5] for row in owl] == [["owl", "0.15", "0.015", "0.60"], ["owl", "1.00", "1.00", "2.00"]]
    assert owl[1][5] == "2999-01-01 00:00:00"
    assert len(rows(run("prices", "list").stdout)) == 3


def test_usage_is_summed_and_filtered(run: Run, url: str) -> None:
    with open_ledger_harness(url) as harness:
        harness.settle(harness.admit().request_id)
        harness.settle(harness.admit(model="free").request_id)
    assert [row[0] for row in rows(run("usage", "--group-by", "model").stdout)] == ["parrot", "free"]
    [[day, requests, *_, charge]] = rows(run("usage").stdout)
    assert (requests, charge) == ("2", "0.0000004")
    printed = json.loads(
        run("usage", "--json", "--group-by", "day", "--account", "acme", "--since", day, "--until", day).stdout
    )
    assert printed == [
        {
            "day": day,
            "requests": 2,
            "prompt_tokens": 20,
            "cached_tokens": 0,
            "completion_tokens": 20,
            "charge": "0.0000004",
        }
    ]
    by_key = json.loads(run("usage", "--json", "--group-by", "key", "--model", "free").stdout)
    assert [row["key"] for row in by_key] == [1]
    assert json.loads(run("usage", "--json", "--key", "2").stdout) == []


def test_changes_are_recorded_under_the_users_name(run: Run, url: str) -> None:
    run("accounts", "create", "acme")
    run("deposit", "acme", "1")
    database = Database(url)
    changes = list_audit_entries(database)
    database.close()
    assert [change.action for change in changes] == ["deposit", "create account"]
    assert all(change.actor.startswith("command line (") for change in changes)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["accounts", "list", "--after", HUGE], ["accounts", "list", "--limit", HUGE]),
        *(["accounts", "list", "--limit", "-1"], ["keys", "list", "--limit", "-1"], ["keys", "show", HUGE]),
        *(["usage", "--key", HUGE], ["usage", "--limit", HUGE], ["jobs", "list", "--before", HUGE]),
    ],
)
def test_numbers_that_no_database_has_are_refused(run: Run, arguments: list[str]) -> None:
    assert "Input should be" in run(*arguments, status=2).stderr


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["deposit", "acme", "1,5"], 2, "'1,5' is not an amount; write it as in 12.50"),
        (["deposit", "acme", "0.0000000001"], 2, "'0.0000000001' has more than nine digits after the point"),
        (["deposit", "nobody", "1"], 1, "There is no account 'nobody'"),
        (["deposit", "9" * 30, "1"], 1, f"There is no account '{'9' * 30}'"),
        (["deposit", "acme", "-1"], 1, "The balance of 0.00 does not cover 1.00"),
        (["accounts", "create", "acme"], 1, "There is an account called 'acme' already"),
        (["accounts", "create", "12"], 1, "An account may not be called '12': a name is not empty and not a number"),
        (["accounts", "create", "a\nb"], 1, r"The name 'a\nb' has control characters or bytes that are no UTF-8"),
        (["accounts", "create", "\udcff"], 1, r"The name '\udcff' has control characters or bytes that are no UTF-8"),
        (["accounts", "create", "a" * 256], 1, "The name has 256 characters; it may have 255"),
        (
            ["accounts", "create", "b", "--currency", "€"],
            1,
            r"The currency '\u20ac' has not three capital letters, as USD has",
        ),
        (
            ["keys", "create", "acme", "--label", "\x1b[2J"],
            1,
            r"The label '\x1b[2J' has control characters or bytes that are no UTF-8",
        ),
        (["keys", "create", "acme", "--model", ""], 1, "A model's name is not empty"),
        (["prices", "set", "", "--prompt", "1", "--completion", "1"], 1, "A model's name is not empty"),
        (["keys", "show", "7"], 1, "There is no key 7"),
        (["keys", "create", "acme", "--expires-at", "soon"], 2, f"'soon' is no date or time{AS_IN}"),
        (
            ["keys", "create", "acme", "--expires-at", "9999-12-31T23:59-05:00"],
            2,
            f"9999-12-31T23:59:00-05:00 {NO_YEAR}",
        ),
        (
            ["keys", "create", "acme", "--expires-at", "0001-01-01T00:00+05:00"],
            2,
            f"0001-01-01T00:00:00+05:00 {NO_YEAR}",
        ),
        (["usage", "--since", "2026-02-30"], 2, "'2026-02-30' is no date; write it as in 2026-01-31"),
        (["prices", "set", "owl", "--prompt", "-1", "--completion", "1"], 1, NEGATIVE_PRICE),
        (
            ["prices", "set", "owl", "--prompt", "0.0001", "--completion", "1"],
            2,
            "'0.0001' for a million tokens has more than three digits after the point",
        ),
        (
            ["db", "status", "--database", "mysql://u:secret@h/n"],
            2,
            "accounts.database: Not a database dragoman can use: mysql; write sqlite:///… or postgresql://…",
        ),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(run: Run, arguments: list[str], status: int, expected: str) -> None:
    run("accounts", "create", "acme")
    result = run(*arguments, status=status)
    assert (result.stdout, result.stderr) == ("", f"dragoman: {expected}\n")


@pytest.mark.parametrize(
    "url", ["postgresql://ada:hunter2@127.0.0.1/none", "postgres://ada@127.0.0.1/none?sslmode=require&password=hunter2"]
)
def test_a_password_in_an_argument_is_refused_without_repeating_it(url: str) -> None:
    result = CliRunner().invoke(app, ["accounts", "list", "--database", url])
    assert result.exit_code == 2
    assert result.stderr.startswith("dragoman: --database has a password, which every user of this machine can read")
    assert "hunter2" not in result.output


def test_without_a_database_the_commands_report_how_to_set_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DRAGOMAN_ACCOUNTS_DATABASE", raising=False)
    result = CliRunner().invoke(app, ["accounts", "list"])
    assert result.exit_code == 2
    assert result.stderr == (
        "dragoman: no database: the settings, ./dragoman.toml or --config FILE, have no [accounts]; add it, or pass "
        "--database, or set DRAGOMAN_ACCOUNTS_DATABASE\n"
    )
    (tmp_path / "dragoman.toml").write_text('[accounts]\ndatabase = "sqlite:///accounts.db"\n')
    assert CliRunner().invoke(app, ["db", "upgrade"]).exit_code == 0
    assert (tmp_path / "accounts.db").exists()


def test_the_books_are_backed_up_and_verified(run: Run, url: str, tmp_path: Path) -> None:
    run("accounts", "create", "acme")
    run("deposit", "acme", "5")
    backup = tmp_path / "backup.db"
    assert run("db", "backup", str(backup)).stdout.endswith(" bytes\n")
    assert run("db", "verify", "--database", f"sqlite:///{backup}").stdout == "the books balance\n"
    assert "exists; choose another name" in run("db", "backup", str(backup), status=1).stderr
    database = Database(url)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE accounts SET deposits = deposits + 1, balance = balance + 1")
    database.close()
    wrong = run("db", "verify", status=1).stdout.splitlines()
    assert "balance by movements, id 1: 5000000001 is stored, 5000000000 computed" in wrong


def test_a_dialect_that_does_not_exist_is_refused_with_those_that_do(run: Run) -> None:
    run("accounts", "create", "acme")
    refused = run("keys", "create", "acme", "--dialect", "opanai", status=2)
    assert refused.stderr.startswith("dragoman: there is no dialect 'opanai'; there are infermatic, openai, ")
    assert rows(run("keys", "list").stdout) == []
