"""References in settings: `env:NAME` stands for the text of a variable, and `file:/path` for that of a file.

Secrets can so stay out of the settings file. One line break at the end of a file is no part of its text.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dragoman.core.user_paths import user_path

_REFERENCE = re.compile(r"env:(?P<variable>[A-Za-z_][A-Za-z0-9_]*)|file:(?P<path>[/~].*)")

REFERENCE_PREFIXES = ("env:", "file:")
"""What references begin with. A secret that begins so and is none was misspelt."""

MAX_FILE_BYTES = 1024 * 1024
"""A file that is longer was named by mistake."""


class ReferenceUnresolved(Exception):
    """The variable is not set, or the file cannot be read. The message names it, and not its text."""

    place = ""
    """Where the reference stands within an array or a table, such as `[0].key`."""


class Resolved(NamedTuple):
    """A value without references."""

    value: object
    references: tuple[str, ...]
    """The references that stood in it."""


def resolve_references(value: object, environment: Mapping[str, str]) -> Resolved:
    """Replace the references in a value of TOML, at any depth. Raises ReferenceUnresolved."""
    references: list[str] = []

    def resolved(part: object, place: str) -> object:
        match part:
            case str() if match := _REFERENCE.fullmatch(part):
                references.append(part)
                try:
                    return _text(match, environment)
                except ReferenceUnresolved as error:
                    error.place = place
                    raise
            case dict():
                return {key: resolved(inner, f"{place}.{key}") for key, inner in part.items()}
            case list():
                return [resolved(inner, f"{place}[{number}]") for number, inner in enumerate(part)]
        return part

    return Resolved(resolved(value, ""), tuple(references))


def read_reference(path: Path) -> str:
    """Return the text of a file without its last line break. Raises ReferenceUnresolved."""
    try:
        with user_path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ReferenceUnresolved(f"{path} has more than {MAX_FILE_BYTES} bytes")
        return content.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ReferenceUnresolved(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReferenceUnresolved(f"{path} is not UTF-8 text (byte {error.start})") from None


def _text(reference: re.Match[str], environment: Mapping[str, str]) -> str:
    if (variable := reference["variable"]) is None:
        return read_reference(Path(reference["path"]))
    if variable not in environment:
        raise ReferenceUnresolved(f"the environment variable {variable} is not set")
    return environment[variable]
