"""Files of other projects: unchanged, licensed, and in the wheel."""

import contextlib
import hashlib
import zipfile
from pathlib import Path

from flit_core import buildapi

import dragoman.server.console
from dragoman.server.console.vendored import VENDORED

AXE = Path(__file__).parents[2] / "data" / "axe-core-4.14.1.min.js"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"

FOLDER = Path(dragoman.server.console.__file__).parent


def test_vendored_files_are_those_of_the_packages() -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (FOLDER / "static/vendor").iterdir()}
    assert found == {file.name: file.sha256 for file in VENDORED}


def test_every_vendored_package_has_its_licence() -> None:
    names = {file.name for file in VENDORED}
    for file in VENDORED:
        name = file.package.split("@")[0].split(".")[0]
        assert any(each.startswith(name) and each.endswith(".LICENSE") for each in names), file.name


def test_the_accessibility_rules_of_the_tests_are_those_of_the_package() -> None:
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == AXE_SHA256


def test_the_wheel_has_every_file_of_the_console(tmp_path: Path) -> None:
    with contextlib.chdir(Path(__file__).parents[3]):  # Build backends work in the project's folder.
        wheel = buildapi.build_wheel(str(tmp_path))
    with zipfile.ZipFile(tmp_path / wheel) as archive:
        packed = {name.removeprefix("dragoman/server/console/") for name in archive.namelist()}
    files = {
        path.relative_to(FOLDER).as_posix()
        for path in FOLDER.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= packed
    assert {"static/console.js", "templates/base.html", "static/vendor/htmx-4.0.1.min.js"} <= files
