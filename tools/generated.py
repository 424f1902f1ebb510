"""Documents with a generated part: write it, or check that it is up to date."""

import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(document: Path, updated: Callable[[str], str], module: str) -> int:
    """Bring the document up to date, or with --check only compare. Return the exit status of the program `module`."""
    present = document.read_text(encoding="utf-8")
    current = updated(present)
    if "--check" not in sys.argv[1:]:
        document.write_text(current, encoding="utf-8")
    elif current != present:
        print(
            f"{document.parent.name}/{document.name} is not up to date; run: .venv/bin/python -m {module}",
            file=sys.stderr,
        )
        return 1
    return 0


def replace_part(document: str, begin: str, end: str, part: str) -> str:
    """Return the document with `part` between the two marks."""
    before, _, rest = document.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{part}\n{end}{after}"
