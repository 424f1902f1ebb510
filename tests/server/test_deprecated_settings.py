"""A start with old spellings: they work, and one line of the log names them."""

from pathlib import Path

from tests.support.server import running_server


def test_old_spellings_from_everywhere_are_reported_in_one_line(tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(
        'max_waiting = 7\n[queue]\nheld_seconds = 5\n[[deployments]]\nname = "parrot"\nmodel = "echo"\nload = "start"\n'
    )
    errors = tmp_path / "errors"
    with (
        errors.open("w") as file,
        running_server(
            "--config",
            str(settings),
            "--parallel",
            "2",
            environment={"DRAGOMAN_KEEP_ALIVE_SECONDS": "3", "DRAGOMAN_LOG_LEVEL": "warning"},
            errors=file,
            records_usage=False,
        ),
    ):
        pass
    [line] = [line for line in errors.read_text().splitlines() if "deprecated" in line]
    for old, current in {
        "max_waiting": "max_waiting_requests",
        "queue.held_seconds": "queue.client_wait_seconds",
        "DRAGOMAN_KEEP_ALIVE_SECONDS": "DRAGOMAN_SSE_KEEP_ALIVE_SECONDS",
        "--parallel": "--max-sequences",
        'deployments.load = "start"': 'deployments.load = "eager"',
    }.items():
        assert f"'{old}': '{current}'" in line


def test_current_spellings_are_not_reported(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with errors.open("w") as file, running_server("echo", "--max-sequences", "2", errors=file, records_usage=False):
        pass
    assert "deprecated" not in errors.read_text()
