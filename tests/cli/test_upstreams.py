"""`dragoman upstreams`, as users type it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dragoman.cli.main import app

SETTINGS = """
[accounts]
database = "sqlite:///{folder}/accounts.db"

[[deployments]]
name = "assistant"
model = "echo"
replicas = 2
upstreams = [{{ url = "http://gpu1:8000" }}]
"""


@pytest.fixture(autouse=True)
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dragoman.toml").write_text(SETTINGS.format(folder=tmp_path))
    run("db", "upgrade")


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status, result.output
    return result


def listed() -> list[list[str]]:
    lines = run("upstreams", "list").stdout.splitlines()
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line[0] == "│"]


def test_upstreams_are_added_drained_and_removed() -> None:
    assert run("upstreams", "add", "assistant", "http://gpu2:8000", "--first-token", "300").stdout == "assistant/a1\n"
    for name in ("assistant/a1", "assistant/2", "assistant/0"):
        run("upstreams", "drain", name)
    run("upstreams", "undrain", "assistant/0")
    assert listed() == [
        ["assistant/0", "assistant", "", "settings", ""],
        ["assistant/1", "assistant", "", "settings", ""],
        ["assistant/2", "assistant", "http://gpu1:8000", "settings", "yes"],
        ["assistant/a1", "assistant", "http://gpu2:8000", "added", "yes"],
    ]
    run("upstreams", "remove", "assistant/a1")
    assert len(listed()) == 3


def test_an_upstream_of_a_deployment_that_the_settings_do_not_have_is_added_with_a_note() -> None:
    added = run("upstreams", "add", "asistant", "http://gpu2:8000")
    assert added.stdout == "asistant/a1\n"
    assert added.stderr == "dragoman: the settings have no deployment asistant; servers without one ignore it\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("drain", "assistant/7"), "there is no upstream assistant/7"),
        (("remove", "assistant/2"), "was not added"),
        (("add", "assistant", "gpu2"), "an upstream's URL is"),
        (("add", "assistant", "http://gpu2", "--key-variable", "HOME"), "UPSTREAM_KEY_"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: tuple[str, ...], problem: str) -> None:
    refused = run("upstreams", *arguments, status=1)
    assert problem in refused.stderr
    assert refused.stderr.count("\n") == 1
