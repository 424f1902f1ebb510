import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dragoman
from dragoman.cli.main import app
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

HEAVY_MODULES = {"httpx", "huggingface_hub", "rich", "numpy", "sqlalchemy", "starlette", "uvicorn"}


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_version_is_the_packages() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"dragoman {dragoman.__version__}\n")


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("serve", "models", "chat", "accounts", "deposit", "keys", "prices", "usage", "db"):
        assert f"\n  {command} " in result.stdout


def test_no_line_of_a_list_of_commands_is_cut_off() -> None:
    groups = [group.name for group in app.registered_groups]
    for arguments in ([], *([group] for group in groups if group is not None)):
        result = CliRunner().invoke(app, [*arguments, "--help"])
        _, heading, commands = result.stdout.partition("Commands:")
        assert heading
        assert "..." not in commands


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--port", "70000"], "command line: --port must be an integer from 0 to 65535, got 70000"),
        (["--threads", "0"], "command line: --threads must be an integer from 1 to 512, got 0"),
        (["--config", "absent.toml"], "absent.toml: there is no such settings file"),
    ],
)
def test_a_wrong_setting_stops_the_server_with_one_line(
    empty_folder: Path, arguments: list[str], expected: str
) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"dragoman: {expected}\n")


def test_a_wrong_variable_stops_the_server(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_PROT", "80")
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == 2
    assert result.stderr.startswith("dragoman: environment: unknown variable DRAGOMAN_PROT; did you mean")


def test_the_settings_file_is_found_where_the_server_is_started(empty_folder: Path) -> None:
    (empty_folder / "dragoman.toml").write_text("workers = 0\n")
    result = CliRunner().invoke(app, ["serve"])
    assert result.stderr == "dragoman: dragoman.toml: workers must be an integer of at least 1, got 0\n"


def test_the_command_line_imports_nothing_heavy() -> None:
    program = "import sys, dragoman.cli.main; print(*{name.partition('.')[0] for name in sys.modules})"
    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=TEST_TIMEOUT_SECONDS, check=True
    )
    assert not HEAVY_MODULES & set(outcome.stdout.split())
