import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.groups import GROUPS

TESTS = Path(__file__).parent

PLUGINS = ("-p", "no:schemathesis", "-p", "tests.support.groups")

FILES = [file for files in GROUPS.values() for file in files]


@pytest.mark.parametrize("pattern", FILES)
def test_each_group_names_files_that_exist(pattern: str) -> None:
    assert list(TESTS.glob(pattern))


def test_a_groups_tests_run_on_one_worker_and_others_on_several(tmp_path: Path) -> None:
    """In a process of its own: pytest runs once in each."""
    folder = tmp_path / "tests" / "server"
    folder.mkdir(parents=True)
    grouped, single = ("test_launch_one", "test_launch_two"), ("test_one", "test_two")
    for name in (*grouped, *single):
        # So many that the worker with the group is done with it first, however slow it is.
        count = 2 if name in grouped else 40
        source = f"import pytest\n@pytest.mark.parametrize('n', range({count}))\ndef {name}(n: int) -> None: pass\n"
        folder.joinpath(f"{name}.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-v", "-n", "2", "--dist", "loadgroup", *PLUGINS]
    environment = {"PYTHONPATH": str(TESTS.parent)}
    run = subprocess.run([*command, "tests"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    passed = re.findall(r"\[(gw\d)\] .* PASSED .*::(\w+)\[", run.stdout)
    assert len(passed) == 84, run.stdout + run.stderr
    assert len({worker for worker, name in passed if name in grouped}) == 1
    assert len({worker for worker, name in passed if name in single}) == 2


def test_a_shared_model_or_server_outside_the_groups_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "core"
    folder.mkdir(parents=True)
    fixture = "import pytest\n@pytest.fixture\ndef echo_server() -> None: pass\n"
    folder.joinpath("test_other.py").write_text(f"{fixture}def test_one(echo_server: None) -> None: pass\n")
    command = [sys.executable, "-m", "pytest", *PLUGINS, "tests"]
    environment = {"PYTHONPATH": str(TESTS.parent)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "without a group: core/test_other.py" in run.stderr
