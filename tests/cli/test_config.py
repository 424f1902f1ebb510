"""`dragoman config`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dragoman.cli.main import app

SECRET = "correct-horse-battery-staple"
SETTINGS = f"""
max_waiting = 9

[[keys]]
name = "ann"
key = "{SECRET}"

[queue]
webhook_secret = "env:SIGNING"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dragoman.toml").write_text(SETTINGS)
    return tmp_path


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["config", *arguments], env={"SIGNING": "whsec_secret", **environment})
    return result.exit_code, result.stdout, result.stderr


def test_every_value_is_shown_with_its_origin_and_secrets_are_masked(folder: Path) -> None:
    database = {"DRAGOMAN_ACCOUNTS_DATABASE": "postgresql://u:hidden@host/name?password=hidden"}
    status, output, _ = run("show", "--host", "::1", **database)
    assert status == 0
    lines = output.splitlines()
    assert 'host = "::1"  # command line: --host' in lines
    assert "port = 8000  # default" in lines
    assert "engine.threads = not set  # default" in lines
    assert "max_waiting_requests = 9  # dragoman.toml" in lines
    assert 'keys = [{"name":"ann","key":"********","group":null}]  # dragoman.toml' in lines
    assert 'queue.webhook_secret = "********"  # dragoman.toml, env:SIGNING' in lines
    url = "postgresql://u:********@host/name?password=********"
    assert f'accounts.database = "{url}"  # environment: DRAGOMAN_ACCOUNTS_DATABASE' in lines
    for secret in (SECRET, "whsec_secret", "hidden"):
        assert secret not in output


def test_the_same_is_shown_as_json(folder: Path) -> None:
    status, output, _ = run("show", "--json", "--threads", "2")
    shown = json.loads(output)
    assert status == 0
    assert shown["engine.threads"] == {"value": 2, "origin": "command line: --threads"}
    assert shown["queue.webhook_secret"]["value"] == "********"


def test_valid_settings_are_confirmed_and_old_spellings_named(folder: Path) -> None:
    secret = "whsec_" + "A" * 32
    expected = "deprecated: max_waiting (now max_waiting_requests)\nthe settings are valid; 3 of them are set\n"
    assert run("check", SIGNING=secret) == (0, expected, "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--port", "70000"], "command line: --port must be an integer from 0 to 65535, got 70000"),
        (["--root-path", "llm"], "root_path must be a path such as /llm, without a slash at its end, got 'llm'"),
    ],
)
def test_settings_that_are_wrong_alone_or_together_are_refused(folder: Path, arguments: list[str], reason: str) -> None:
    assert run("check", *arguments, SIGNING="whsec_" + "A" * 32) == (2, "", f"dragoman: {reason}\n")
