"""Generates the tables of docs/dialects.md from the dialects' wire structs.

.venv/bin/python -m tools.dialect_tables           # writes them
.venv/bin/python -m tools.dialect_tables --check   # fails if they are not up to date
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import inspect

from dragoman.dialects.http.operation import Operation
from dragoman.server.dialects import DIALECTS
from tools.generated import replace_part, write_or_check
from tools.request_classes import CHAT, TEXT, FieldStatus, Route, struct_fields
from tools.type_words import allowed_range, alternatives, encoded, type_name

DOCUMENT = Path(__file__).parent.parent / "docs" / "dialects.md"
BEGIN = "<!-- made by tools/dialect_tables.py from here -->"
END = "<!-- to here -->"


def tables() -> str:
    """Return all tables, a section for each dialect."""
    return "\n".join(line for name, dialect in DIALECTS.items() for line in _section(name, dialect.OPERATIONS))


def updated(document: str) -> str:
    """Return the document with current tables between its marks."""
    return replace_part(document, BEGIN, END, tables())


def _section(name: str, operations: tuple[Operation, ...]) -> Iterator[str]:
    yield f"## {name}\n"
    yield "| method | path | |\n|---|---|---|"
    yield from (f"| {operation.method} | `{operation.path}` | {operation.summary} |" for operation in operations)
    yield ""
    requests: dict[type[msgspec.Struct], list[str]] = {}
    for operation in operations:
        if operation.request is not None:
            requests.setdefault(operation.request, []).append(operation.path)
    for request, paths in requests.items():
        yield f"### `{'`, `'.join(paths)}`\n"
        yield "| parameter | type | range | default |\n|---|---|---|---|"
        yield from _rows(request)
        yield ""
    if name == "infermatic":
        yield from _request_classes()


def _request_classes() -> Iterator[str]:
    """Yield the table of the fields of other services' request classes."""
    yield "### Fields of OpenAI's, vLLM's and LiteLLM's request classes\n"
    yield "| field | known to | chat | text | remark | also honoured by |\n|---|---|---|---|---|---|"
    for field in sorted({*CHAT.fields, *TEXT.fields}):
        statuses = [_status(route, field) for route in (CHAT, TEXT)]
        sources = dict.fromkeys(source for route in (CHAT, TEXT) for source in route.sources_of(field))
        words = " | ".join("" if status is None else status.status for status in statuses)
        remark = next((_remark(status) for status in statuses if status is not None and status.remark), "")
        yield f"| {field} | {', '.join(sources)} | {words} | {remark} | {', '.join(_other_dialects(field))} |"
    yield ""


def _status(route: Route, field: str) -> FieldStatus | None:
    return route.status(field) if field in route.fields else None


def _remark(status: FieldStatus) -> str:
    accepted = " or ".join(encoded(value) for value in status.accepted)
    return f"{status.remark}{f'; {accepted} is accepted' if accepted else ''}"


def _other_dialects(field: str) -> list[str]:
    """Return the other dialects of OpenAI's shape whose chats or texts have the field."""
    return [
        name
        for name in ("openai", "empower", "arcee", "float16")
        if any(
            operation.request is not None
            and operation.path.endswith("/completions")
            and field in struct_fields(operation.request)
            for operation in DIALECTS[name].OPERATIONS
        )
    ]


def _rows(request: type[msgspec.Struct]) -> Iterator[str]:
    info = inspect.type_info(request)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        kinds = [kind for kind in alternatives(field.type) if not isinstance(kind, inspect.NoneType)]
        types = " or ".join(dict.fromkeys(type_name(kind) for kind in kinds))
        ranges = ", ".join(dict.fromkeys(filter(None, map(allowed_range, kinds))))
        yield f"| {field.encode_name} | {types} | {ranges} | {_default(field)} |"


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT or isinstance(field.default, msgspec.Struct):
        return "empty"
    return "off" if field.default is None else encoded(field.default)


def main() -> int:
    """Write the tables, or check them. Return the process's exit status."""
    return write_or_check(DOCUMENT, updated, "tools.dialect_tables")


if __name__ == "__main__":
    sys.exit(main())
