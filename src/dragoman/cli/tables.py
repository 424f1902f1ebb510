"""Tables for people, which other programs can read line by line."""

import sys
from collections.abc import Iterable, Mapping

from dragoman.cli.values import format_value


def print_table(columns: Mapping[str, str], rows: Iterable[Iterable[object]]) -> None:
    """Print rows under the names of their columns, each with its justification: left or right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name, justify in columns.items():
        table.add_column(name, justify="right" if justify == "right" else "left")
    for row in rows:
        table.add_row(*(Text(format_value(value)) for value in row))
    # Piped into another program, a line per row is worth more than a fitting width.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, a line each, those without a value left out."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if text := format_value(value):
            print(f"{name:<{width}}  {text}")
