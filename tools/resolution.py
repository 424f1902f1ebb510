"""Resolves dragoman's dependencies for other machines and Pythons, and writes the result into docs/install.md.

.venv/bin/python -m tools.resolution    # asks the package index; not a part of `make check`

A machine passes if wheels of all pinned versions exist for it. Nothing is installed or run.
"""

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.generated import replace_part

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "install.md"
BEGIN = "<!-- made by tools/resolution.py from here -->"
END = "<!-- to here -->"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = {
    "Linux x86-64, glibc 2.31": "x86_64-manylinux_2_31",
    "Linux x86-64, glibc 2.28": "x86_64-manylinux_2_28",
    "Linux x86-64, musl": "x86_64-unknown-linux-musl",
    "Linux arm64, glibc 2.31": "aarch64-manylinux_2_31",
    "Linux arm64, glibc 2.28": "aarch64-manylinux_2_28",
    "macOS on Apple silicon": "aarch64-apple-darwin",
    "macOS on Intel": "x86_64-apple-darwin",
}
"""Machine → uv's name of it."""

_MISSING = re.compile(r"ecause ([\w.-]+?)(?:[={][^,]*?)? has no (?:usable )?wheels")
_TIMEOUT_SECONDS = 120.0


def resolve(python: str, platform: str) -> str:
    """Return "yes", or "no" with the first package without a wheel."""
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--only-binary", ":all:"),
        *("--constraint", "requirements/runtime.txt"),
        *("--python-version", python, "--python-platform", platform, "pyproject.toml"),
    ]
    resolved = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    if resolved.returncode == 0:
        return "yes"
    missing = _MISSING.search(" ".join(resolved.stderr.split()))
    if missing is None:
        raise RuntimeError(f"uv failed for Python {python} on {platform}: {resolved.stderr}")
    return f"no: `{missing[1]}`"


def table() -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"| machine | {' | '.join(PYTHONS)} |"
    yield "|---|" + "---|" * len(PYTHONS)
    for machine, platform in MACHINES.items():
        cells = map(resolve, PYTHONS, itertools.repeat(platform))
        yield f"| {machine} | {' | '.join(cells)} |"


def main() -> int:
    """Write the table. Return the process's exit status."""
    document = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(replace_part(document, BEGIN, END, "\n".join(table()) + "\n"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
