"""The tables of docs/dialects.md, made from the dialects' wire structs.

.venv/bin/python -m tools.dialect_tables           # writes them
.venv/bin/python -m tools.dialect_tables --check   # complains when they are not up to date
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import inspect

from dragoman.dialects.http.operation import Operation
from dragoman.server.dialects import DIALECTS
from tools.generated import write_or_check

DOCUMENT = Path(__file__).parent.parent / "docs" / "dialects.md"
BEGIN = "<!-- made by tools/dialect_tables.py from here -->"
END = "<!-- to here -->"


def tables() -> str:
    """All tables, a section for each dialect."""
    return "\n".join(line for name, dialect in DIALECTS.items() for line in _section(name, dialect.operations))


def updated(document: str) -> str:
    """The document with fresh tables between its marks."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


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


def _rows(request: type[msgspec.Struct]) -> Iterator[str]:
    info = inspect.type_info(request)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        kinds = [kind for kind in _alternatives(field.type) if not isinstance(kind, inspect.NoneType)]
        types = " or ".join(dict.fromkeys(_name(kind) for kind in kinds))
        ranges = ", ".join(dict.fromkeys(filter(None, map(_range, kinds))))
        yield f"| {field.encode_name} | {types} | {ranges} | {_default(field)} |"


def _alternatives(info: inspect.Type) -> tuple[inspect.Type, ...]:
    return info.types if isinstance(info, inspect.UnionType) else (info,)


def _name(info: inspect.Type) -> str:
    match info:
        case inspect.StrType() | inspect.LiteralType():
            return "string"
        case inspect.BoolType():
            return "boolean"
        case inspect.IntType():
            return "integer"
        case inspect.FloatType():
            return "number"
        case inspect.ListType(item_type=item):
            return f"array of {' or '.join(dict.fromkeys(_name(kind) + 's' for kind in _alternatives(item)))}"
        case inspect.AnyType():
            return "value"
    return "object"


def _range(info: inspect.Type) -> str:
    match info:
        case inspect.IntType(ge=low, le=high, gt=above) | inspect.FloatType(ge=low, le=high, gt=above):
            return _bounds(low, high, above)
        case inspect.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in values)
        case inspect.ListType(min_length=low, max_length=high) if low is not None or high is not None:
            return f"{_bounds(low, high, None)} items"
        case inspect.StrType(min_length=low, max_length=high) if low is not None or high is not None:
            return f"{_bounds(low, high, None)} characters"
    return ""


def _bounds(low: float | None, high: float | None, above: float | None) -> str:
    if above is not None:
        return f"> {above:g}"
    if low is not None and high is not None:
        return f"{low:g} … {high:g}"
    return f"≥ {low:g}" if low is not None else f"≤ {high:g}" if high is not None else ""


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT or isinstance(field.default, msgspec.Struct):
        return "empty"
    return "off" if field.default is None else f"`{msgspec.json.encode(field.default).decode()}`"


def main() -> int:
    """Write the tables, or check them; returns the process's exit status."""
    return write_or_check(DOCUMENT, updated, "tools.dialect_tables")


if __name__ == "__main__":
    sys.exit(main())
