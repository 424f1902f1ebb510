"""Generates the tables of docs/configuration.md from the settings' types and docstrings.

.venv/bin/python -m tools.configuration_tables           # writes them
.venv/bin/python -m tools.configuration_tables --check   # fails if they are not up to date
"""

import ast
import inspect as inspect_module
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import inspect

from dragoman.cli.serving_options import SETTINGS_WITH_OPTION
from dragoman.server.reloading import LIVE_SETTINGS
from dragoman.server.renamed_settings import RENAMED_SETTINGS, RENAMED_VALUES
from dragoman.server.settings import Settings
from dragoman.server.settings_loading import FILE_ONLY, environment_variable, flag
from tools.generated import replace_part, write_or_check
from tools.type_words import allowed_range, alternatives, encoded, type_name

DOCUMENT = Path(__file__).parent.parent / "docs" / "configuration.md"
BEGIN = "<!-- made by tools/configuration_tables.py from here -->"
END = "<!-- to here -->"


OPTIONS = {"model": "the argument"} | {key: f"`{flag(key)}`" for key in SETTINGS_WITH_OPTION if key != "model"}
"""Key → how `dragoman serve` takes it."""


class Table(NamedTuple):
    """A table of the settings file. The top level has the name ""."""

    name: str
    struct: type[msgspec.Struct]
    is_array: bool
    prefix: str
    """What stands before its keys, such as `deployments[].`."""

    @property
    def header(self) -> str:
        """The table as the file writes it."""
        return f"[[{self.name}]]" if self.is_array else f"[{self.name}]"

    @property
    def is_in_array(self) -> bool:
        """Whether it is there once for each entry of an array, so that neither variables nor options can set it."""
        return "[]" in self.prefix


def updated(document: str) -> str:
    """Return the document with current tables between its marks."""
    return replace_part(document, BEGIN, END, "\n".join(_part()))


def tables(
    struct: type[msgspec.Struct] = Settings, name: str = "", prefix: str = "", *, is_array: bool = False
) -> Iterator[Table]:
    """Yield the tables of the file: the top level, its tables, and the tables inside those."""
    yield Table(name, struct, is_array, prefix)
    for field in _fields(struct):
        inner = f"{name}.{field.name}".lstrip(".")
        match field.type:
            case inspect.StructType(cls=cls):
                yield from tables(cls, inner, f"{prefix}{field.name}.")
            case inspect.VarTupleType(item_type=inspect.StructType(cls=cls)):
                yield from tables(cls, inner, f"{prefix}{field.name}[].", is_array=True)


def docstrings(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return the docstring of each field of one of the settings' structs."""
    module = ast.parse(inspect_module.getsource(sys.modules[struct.__module__]))
    [body] = [node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == struct.__name__]
    found = {}
    for field, documentation in itertools.pairwise(body):
        match field, documentation:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = _one_line(text)
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _part() -> Iterator[str]:
    listed = list(tables())
    yield "## Tables\n"
    yield "| table | |\n|---|---|"
    yield from (f"| `{table.header}` | {_one_line(table.struct.__doc__ or '')} |" for table in listed if table.name)
    yield "\n## Settings\n"
    yield "| key | type | range | default | environment variable | option | reload | |"
    yield "|---|---|---|---|---|---|---|---|"
    for table in listed:
        yield from _rows(table)
    yield "\n## Old names\n"
    yield "These are still accepted. At start, one line of the log, `deprecated_settings`, names those in use.\n"
    yield "| old | current |\n|---|---|"
    yield from (f"| {_spellings(old, key)} | {_spellings(key, key)} |" for old, key in RENAMED_SETTINGS.items())
    for key, values in RENAMED_VALUES.items():
        yield from (f'| `{key} = "{old}"` | `{key} = "{current}"` |' for old, current in values.items())
    yield ""


def _fields(struct: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return info.fields


def _rows(table: Table) -> Iterator[str]:
    documented = docstrings(table.struct)
    for field in _fields(table.struct):
        if isinstance(field.type, inspect.StructType):
            continue  # a table, whose settings have rows of their own
        key = table.prefix + field.name
        kinds = [kind for kind in alternatives(field.type) if not isinstance(kind, inspect.NoneType)]
        cells = (
            f"`{key}`",
            " or ".join(_type_name(kind) for kind in kinds),
            ", ".join(filter(None, map(_range, kinds))),
            _default(field),
            "" if table.is_in_array or key in FILE_ONLY else f"`{environment_variable(key)}`",
            "" if table.is_in_array else OPTIONS.get(key, ""),
            "yes" if key.partition("[]")[0] in LIVE_SETTINGS else "",
            documented[field.name],
        )
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type_name(kind: inspect.Type) -> str:
    match kind:
        case inspect.VarTupleType(item_type=inspect.StructType()):
            return "array of tables"
        case inspect.DictType(value_type=inspect.AnyType()):
            return "table"
        case inspect.DictType():
            return "table of strings"
    return type_name(kind)


def _range(kind: inspect.Type) -> str:
    match kind:
        case inspect.StrType(pattern=str(pattern)):
            return f"`{pattern}`"
        case inspect.StrType(min_length=1):
            return "not empty"
        case inspect.VarTupleType(item_type=item) | inspect.DictType(value_type=item):
            return "" if isinstance(item, inspect.StructType) else allowed_range(item).replace("≥ 1 characters", "")
    return allowed_range(kind)


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT or field.default == ():
        return "none"
    return "not set" if field.default is None else encoded(field.default)


def _spellings(key: str, current: str) -> str:
    """Return a key, and its variable and option if the setting has them."""
    spellings = [key]
    if current not in FILE_ONLY:
        spellings.append(environment_variable(key))
    if current in SETTINGS_WITH_OPTION:
        spellings.append(flag(key))
    return ", ".join(f"`{spelling}`" for spelling in spellings)


def main() -> int:
    """Write the tables, or check them. Return the process's exit status."""
    return write_or_check(DOCUMENT, updated, "tools.configuration_tables")


if __name__ == "__main__":
    sys.exit(main())
