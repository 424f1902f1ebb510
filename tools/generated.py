"""Documents with a part that a program writes: write it anew, or say that it is stale."""

import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(document: Path, updated: Callable[[str], str], module: str) -> int:
    """Bring the document up to date, or with --check only look; returns the exit status of `module`, the program."""
    present = document.read_text(encoding="utf-8")
    fresh = updated(present)
    if "--check" not in sys.argv[1:]:
        document.write_text(fresh, encoding="utf-8")
    elif fresh != present:
        print(f"docs/{document.name} is not up to date; run: .venv/bin/python -m {module}", file=sys.stderr)
        return 1
    return 0
