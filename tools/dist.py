"""Builds the wheel and the sdist into dist/, and builds them again to see that the bytes are the same.

.venv/bin/python -m tools.dist

Files have the time SOURCE_DATE_EPOCH, or else that of the last commit (https://reproducible-builds.org/specs/).
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flit_core import buildapi

ROOT = Path(__file__).parent.parent


def build(folder: Path, epoch: str) -> Mapping[str, str]:
    """Build both archives of the project into `folder`. Return their names → the SHA-256 of their bytes."""
    os.environ["SOURCE_DATE_EPOCH"] = epoch
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(ROOT):
        names = [buildapi.build_wheel(str(folder)), buildapi.build_sdist(str(folder))]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def source_epoch() -> str:
    """Return the seconds since 1970 that the archives' files get."""
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        return epoch
    command = ["git", "log", "-1", "--format=%ct"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    """Build twice and compare. Return the process's exit status."""
    epoch = source_epoch()
    built = build(ROOT / "dist", epoch)
    with tempfile.TemporaryDirectory() as folder:
        again = build(Path(folder), epoch)
    for name, digest in built.items():
        print(f"{digest}  dist/{name}")
    if built != again:
        print("a second build has other bytes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
