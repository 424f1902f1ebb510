import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """One whose tests take more than they may."""
    tmp_path.joinpath("pyproject.toml").write_text(
        '[tool.pytest.ini_options]\ntestpaths = ["slow"]\nprocessor_budget_seconds = "0.001"\n'
    )
    tests = tmp_path / "slow"
    tests.mkdir()
    tests.joinpath("test_one.py").write_text("def test_one():\n    sum(range(10**6))\n")
    return tmp_path


def _run(project: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    plugins = ["-p", "no:schemathesis", "-p", "tests.support.processor_time"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, *arguments]
    path = f"{ROOT}:{ROOT / 'src'}"
    return subprocess.run(command, cwd=project, env={"PYTHONPATH": path}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_whole_run_above_its_budget_fails_and_tells_which_folder_took_what(
    project: Path, workers: tuple[str, ...]
) -> None:
    run = _run(project, *workers)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "1 passed" in run.stdout
    lines = run.stdout.splitlines()
    assert any(line.endswith("  slow") for line in lines)
    assert any("more than processor_budget_seconds" in line for line in lines)


@pytest.mark.parametrize("chosen", ["slow", "--deselect=slow/test_one.py::test_two", "-k=one"])
def test_a_part_of_a_run_has_no_budget(project: Path, chosen: str) -> None:
    run = _run(project, chosen)
    assert run.returncode == pytest.ExitCode.OK
    assert "processor" not in run.stdout
