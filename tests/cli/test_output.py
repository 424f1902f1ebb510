"""Where the command line prints to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.timeouts import TEST_TIMEOUT_SECONDS


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "DRAGOMAN_ACCOUNTS_DATABASE": f"sqlite:///{tmp_path}/accounts.db"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "dragoman", *arguments]
    return subprocess.run(
        program, env=environment, capture_output=True, text=True, timeout=TEST_TIMEOUT_SECONDS, check=False
    )


# A process of its own, since the encoding belongs to its standard output.
def test_an_encoding_without_a_character_does_not_stop_a_command(environment: dict[str, str]) -> None:
    run(environment, "db", "upgrade")
    ascii_only = {**environment, "PYTHONIOENCODING": "ascii"}
    made = run(ascii_only, "accounts", "create", "Zoë")
    assert (made.returncode, made.stderr) == (0, "")
    assert "name      Zo\\xeb" in made.stdout
    listed = run(ascii_only, "accounts", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "Zo\\xeb" in listed.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", [["accounts", "list"], ["config", "show"], ["--version"]])
def test_output_that_cannot_be_written_is_an_error_of_one_line(environment: dict[str, str], command: list[str]) -> None:
    run(environment, "db", "upgrade")
    run(environment, "accounts", "create", "acme")
    with Path("/dev/full").open("w") as full:
        program = [sys.executable, "-m", "dragoman", *command]
        failed = subprocess.run(
            program, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=TEST_TIMEOUT_SECONDS
        )
    assert (failed.returncode, failed.stderr) == (1, "dragoman: standard output: No space left on device\n")
