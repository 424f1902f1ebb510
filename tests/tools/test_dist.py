"""Building the distributions."""

import tarfile
import zipfile
from pathlib import Path

from tools.dist import build

_EPOCH = "1767225600"


def test_two_builds_have_the_same_bytes_and_what_an_installation_needs_and_no_compiled_modules(tmp_path: Path) -> None:
    """One test: what it asks twice takes longer than most tests."""
    built = build(tmp_path / "first", _EPOCH)
    assert len(built) == 2
    assert built == build(tmp_path / "second", _EPOCH)

    wheel, sdist = (tmp_path / "first" / name for name in built)
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = archive.namelist()
    with tarfile.open(sdist) as tar:
        in_sdist = [name.partition("/")[2] for name in tar.getnames()]
    assert {"dragoman/py.typed", "dragoman/cli/main.py"} <= set(in_wheel)
    assert {"src/dragoman/py.typed", "requirements/runtime.txt", "docs/install.md"} <= set(in_sdist)
    assert not [name for name in (*in_wheel, *in_sdist) if "__pycache__" in name]
