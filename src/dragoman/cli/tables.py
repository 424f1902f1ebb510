"""Tables for people, which other programs can read line by line."""

import sys
from collections.abc import Iterable, Mapping

from dragoman.cli.values import format_value


def print_table(columns: Mapping[str, str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table. `columns` are names → justifications, left or right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name, justify in columns.items():
        table.add_column(name, justify="right" if justify == "right" else "left")
    for row in rows:
        table.add_row(*(Text(format_value(value)) for value in row))
    # Other programs read one line for each row, so only a terminal limits the width.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print one line for each name and value. Empty values are left out."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if text := format_value(value):
            print(f"{name:<{width}}  {text}")
