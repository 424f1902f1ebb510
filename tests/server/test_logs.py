"""The names of log events."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import dragoman

LEVELS = {"debug", "info", "warning", "error", "exception"}


def events() -> Iterator[tuple[Path, ast.expr]]:
    """Files, and the first arguments of their calls of `_log`."""
    for path in Path(dragoman.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="_log"), attr=level), args=[event, *_]):
                    assert level in LEVELS
                    yield path, event


def test_log_events_have_distinct_names_in_snake_case() -> None:
    names: dict[str, Path] = {}
    for path, event in events():
        assert isinstance(event, ast.Constant), f"{path}: an event's name is a constant"
        name = str(event.value)
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name), f"{path}: {name}"
        assert name not in names, f"{path} and {names[name]}: {name}"
        names[name] = path
    assert len(names) > 20
