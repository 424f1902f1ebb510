"""Statistics of measurements, and their formatting."""

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np

Figures = TypeVar("Figures", bound=msgspec.Struct)


class TargetRatio(NamedTuple):
    """The minimum that a ratio should reach."""

    minimum: float

    def verdict(self, ratio: float) -> str:
        """Return the verdict to print beside the ratio."""
        return f"target {self.minimum:g}: {'met' if ratio >= self.minimum else 'MISSED'}"


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, interpolated linearly. NaN if there are no values."""
    return float(np.percentile(values, percent)) if values else math.nan


def medians(rounds: Sequence[Figures]) -> Figures:
    """Return the medians of the rounds, field by field. All fields must be numbers."""
    kind = type(rounds[0])
    return kind(
        **{name: statistics.median(getattr(result, name) for result in rounds) for name in kind.__struct_fields__}
    )


def milliseconds(seconds: float) -> str:
    """Format a time in milliseconds."""
    return f"{seconds * 1000:,.1f} ms" if seconds < 0.1 else f"{seconds * 1000:,.0f} ms"


def table(rows: Iterable[Sequence[str]]) -> str:
    """Format rows as lines of columns. All columns but the first are aligned to the right."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        columns = [first.ljust(widths[0])]
        columns += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  " + "   ".join(columns).rstrip())
    return "\n".join(lines)


def write_json(path: Path | None, results: object) -> None:
    """Write the results as JSON, if a file is given."""
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
