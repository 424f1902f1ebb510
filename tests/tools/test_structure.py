"""The checks of tools/structure.py on small projects."""

from pathlib import Path

import pytest

from tools.structure import find_violations


@pytest.fixture
def project(tmp_path: Path) -> "Project":
    return Project(tmp_path)


class Project:
    """A folder with source files."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, path: str, text: str) -> None:
        file = self._root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def found(self) -> list[tuple[str, str]]:
        """The checks that fail, with the file."""
        return [(violation.check, str(violation.path)) for violation in find_violations(self._root)]

    def messages(self) -> list[str]:
        return [violation.message for violation in find_violations(self._root)]


def test_six_positional_arguments_are_reported_but_not_those_of_named_library_calls(project: Project) -> None:
    project.write(
        "src/dragoman/a.py", "f(1, 2, 3, 4, 5)\nloop.run_in_executor(1, 2, 3, 4, 5, 6)\nf(1, 2, x=3, y=4, z=5, a=6)\n"
    )
    project.write("tests/test_a.py", "f(1, 2, 3, 4, 5, 6)\n")
    assert project.found() == [("positional", "tests/test_a.py")]


def test_long_files_and_functions_are_reported(project: Project) -> None:
    project.write("tools/long_file.py", "x = 1\n" * 401)
    project.write("tools/fair_file.py", "x = 1\n" * 400)
    project.write("benchmarks/long_function.py", "def f():\n" + "    x = 1\n" * 61)
    project.write("benchmarks/fair_function.py", "def f():\n" + "    x = 1\n" * 60)
    assert project.found() == [("size", "benchmarks/long_function.py"), ("size", "tools/long_file.py")]


def test_modules_that_import_each_other_are_reported_wherever_the_import_stands(project: Project) -> None:
    project.write("src/dragoman/a.py", "import dragoman.b\n")
    project.write("src/dragoman/b.py", "def f():\n    from dragoman.c import x\n")
    project.write("src/dragoman/c.py", "if TYPE_CHECKING:\n    from dragoman import a\n")
    [message] = project.messages()
    assert "dragoman.a" in message
    assert "dragoman.c" in message


def test_folders_that_import_each_other_are_reported(project: Project) -> None:
    for path in ("__init__", "one/__init__", "two/__init__", "one/y", "two/x"):
        project.write(f"src/dragoman/{path}.py", "")
    project.write("src/dragoman/one/x.py", "from dragoman.two.x import value\n")
    project.write("src/dragoman/two/y.py", "from dragoman.one import y\n")
    assert project.found() == [("cycle", "src/dragoman/__init__.py")]


def test_a_class_name_may_stand_twice_only_in_a_file_that_dialects_share(project: Project) -> None:
    project.write("src/dragoman/dialects/vendors/arcee/codec.py", "class Codec: ...\nclass _Private: ...\n")
    project.write("src/dragoman/dialects/vendors/scale/codec.py", "class Codec: ...\nclass _Private: ...\n")
    assert project.found() == []
    project.write("src/dragoman/jobs/codec.py", "class Codec: ...\n")
    assert project.found() == [("class", "src/dragoman/jobs/codec.py")]


def test_a_station_must_name_a_file_and_a_function_that_exist(project: Project) -> None:
    project.write("src/dragoman/jobs/queue.py", "class Queue:\n    async def put(self): ...\ndef take(): ...\n")
    station = "1. **Queue.** `jobs/queue.py`"
    project.write(
        "docs/request-lifecycle.md", f"`nowhere.py`\n\n{station}, `Queue.put`,\n   then `take`\n\n`nothing`\n"
    )
    assert project.found() == []
    project.write(
        "docs/request-lifecycle.md", f"{station}, `Queue.get`\n2. `jobs/queues.py`, `take`\n3. `jobs/queue.py`\n"
    )
    assert project.messages() == [
        "src/dragoman/jobs/queue.py has no function Queue.get",
        "there is no file jobs/queues.py",
        "the station names no function of its file",
    ]
