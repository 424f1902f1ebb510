"""Checks of the project's structure that ruff and mypy do not have.

.venv/bin/python -m tools.structure    # prints every violation, and fails if there is one

- positional: no call passes six or more positional arguments.
- size: no file has more than MAX_FILE_LINES, no function more than MAX_FUNCTION_LINES.
- cycle: modules of src import each other in no circle, nor do the folders of one parent. Imports inside functions and
  under TYPE_CHECKING count.
- class: a public class name stands once in src, or in files of the same name of several dialects.
- lifecycle: every station of docs/request-lifecycle.md names a file and a function that exist.
"""

import ast
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SOURCE = "src"
FOLDERS = (SOURCE, "tests", "benchmarks", "tools")
DIALECTS = Path(SOURCE, "dragoman", "dialects")
LIFECYCLE = Path("docs", "request-lifecycle.md")

MAX_POSITIONAL = 5
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 61

VARIADIC_CALLS = frozenset(
    {
        "run_in_executor",  # arguments of another function
        *("Table", "_update_job"),  # columns
        *("given", "one_of", "tuples"),  # Hypothesis strategies
        *("run", "run_python_with_hub"),  # arguments of a command line
        *("batch_type", "llama_token_to_piece", "llama_tokenize"),  # C functions, which have no keyword arguments
    }
)
"""Calls that may pass any number of positional arguments, by the end of their dotted name."""

_STATION = re.compile(r"^\d+\.\s")
_CODE = re.compile(r"`([^`]+)`")
_SYMBOL = re.compile(r"\w+(?:\.\w+)?(?:\(\))?")

Modules = Mapping[Path, ast.Module]
"""Path below the root → its syntax tree."""


class Violation(NamedTuple):
    """One place that breaks one rule."""

    check: str
    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: [{self.check}] {self.message}"


def parse_modules(root: Path) -> Modules:
    """Parse every Python file in the checked folders."""
    paths = (path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py")))
    return {path.relative_to(root): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def find_violations(root: Path) -> list[Violation]:
    """Run every check on the project at `root`."""
    modules = parse_modules(root)
    return [
        *check_positional_arguments(modules),
        *check_sizes(root, modules),
        *check_import_cycles(modules),
        *check_class_names(modules),
        *check_lifecycle(root, modules),
    ]


def check_positional_arguments(modules: Modules) -> Iterator[Violation]:
    """Report calls with too many positional arguments; `*arguments` counts as one."""
    for path, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and len(node.args) > MAX_POSITIONAL:
                name = ast.unparse(node.func)
                if not any(name == call or name.endswith(f".{call}") for call in VARIADIC_CALLS):
                    yield Violation("positional", path, node.lineno, f"{name}() gets {len(node.args)} of them")


def check_sizes(root: Path, modules: Modules) -> Iterator[Violation]:
    """Report long files and long functions."""
    for path, tree in modules.items():
        lines = len((root / path).read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE_LINES:
            yield Violation("size", path, 1, f"the file has {lines} lines, more than {MAX_FILE_LINES}")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    message = f"{node.name}() has {lines} lines, more than {MAX_FUNCTION_LINES}"
                    yield Violation("size", path, node.lineno, message)


def check_import_cycles(modules: Modules) -> Iterator[Violation]:
    """Report one circle between modules, and one between the children of each folder."""
    paths = {_module_name(path): path for path in modules if path.parts[0] == SOURCE}
    imports = {name: _imported_modules(modules[path], paths.keys()) - {name} for name, path in paths.items()}
    if circle := _find_circle(imports):
        yield Violation("cycle", paths[circle[0]], 1, f"modules import each other: {' > '.join(circle)}")
    packages = [name for name, path in paths.items() if path.name == "__init__.py"]
    for package in packages:
        if circle := _find_circle(_children_imports(package, imports)):
            yield Violation("cycle", paths[package], 1, f"folders import each other: {' > '.join(circle)}")


def check_class_names(modules: Modules) -> Iterator[Violation]:
    """Report public classes of src with a name that another class has."""
    places: dict[str, list[tuple[Path, int]]] = {}
    for path, tree in modules.items():
        if path.parts[0] == SOURCE:
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append((path, node.lineno))
    for name, found in places.items():
        *others, (path, line) = found
        if others and not _is_file_of_dialects({path for path, _ in found}):
            names = ", ".join(str(other) for other, _ in others)
            yield Violation("class", path, line, f"{name} is also a class of {names}")


def check_lifecycle(root: Path, modules: Modules) -> Iterator[Violation]:
    """Report stations that name no file, no function, or one that does not exist.

    A station is a numbered line with the indented lines after it. Each name in backticks after a file's belongs to
    that file.
    """
    for number, text in _stations(root / LIFECYCLE):
        file: Path | None = None
        symbols = 0
        for code in _CODE.findall(text):
            if code.endswith(".py"):
                file = _find_file(code, modules)
                if file is None:
                    yield Violation("lifecycle", LIFECYCLE, number, f"there is no file {code}")
            elif file is not None and _SYMBOL.fullmatch(code):
                symbols += 1
                if code.removesuffix("()") not in _symbols(modules[file]):
                    yield Violation("lifecycle", LIFECYCLE, number, f"{file} has no function {code}")
        if file is not None and not symbols:
            yield Violation("lifecycle", LIFECYCLE, number, "the station names no function of its file")


def _is_file_of_dialects(paths: set[Path]) -> bool:
    """Whether these are files of one name of several dialects."""
    same_name = len({path.name for path in paths}) == 1 and len(paths) > 1
    return same_name and all(path.is_relative_to(DIALECTS) for path in paths)


def _stations(document: Path) -> Iterator[tuple[int, str]]:
    """Yield the line number and text of each station; none if there is no document."""
    lines = document.read_text(encoding="utf-8").splitlines() if document.exists() else []
    for number, line in enumerate(lines, start=1):
        if _STATION.match(line):
            continuation = itertools.takewhile(lambda following: following.startswith(" "), lines[number:])
            yield number, " ".join([line, *continuation])


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported_modules(tree: ast.Module, known: Iterable[str]) -> set[str]:
    """Return the modules of src that a module imports anywhere in its code."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            is_module = len(submodules) == len(node.names)
            names |= submodules if is_module else {*submodules, node.module}
    return names & set(known)


def _children_imports(package: str, imports: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return which children of a folder import which others, without its own __init__.py."""
    prefix = f"{package}."
    graph: dict[str, set[str]] = {}
    for name, imported in imports.items():
        if name.startswith(prefix):
            child = name.removeprefix(prefix).partition(".")[0]
            others = {other.removeprefix(prefix).partition(".")[0] for other in imported if other.startswith(prefix)}
            graph.setdefault(child, set()).update(others - {child})
    return graph


def _find_circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle[::-1]
    return []


def _find_file(name: str, modules: Modules) -> Path | None:
    """Find the file that a document names: below the root, below src, or below src/dragoman."""
    candidates = (Path(name), Path(SOURCE, name), Path(SOURCE, "dragoman", name))
    return next((path for path in candidates if path in modules), None)


def _symbols(tree: ast.Module) -> set[str]:
    """Return the functions and classes of a module, and its methods as Class.method."""
    symbols: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            symbols.add(node.name)
        if isinstance(node, ast.ClassDef):
            symbols.update(
                f"{node.name}.{method.name}"
                for method in node.body
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
            )
    return symbols


def main() -> int:
    """Print the violations. Return the process's exit status."""
    violations = find_violations(ROOT)
    for violation in violations:
        print(violation, file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
