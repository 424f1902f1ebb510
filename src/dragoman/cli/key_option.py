"""The API key that commands send to a server. It is no argument, which other users of the machine could read."""

import os
from typing import Annotated, TypeAlias

import typer

from dragoman.cli.database_access import USAGE_ERROR, error_exit

KeyOption: TypeAlias = Annotated[
    str | None, typer.Option("--key", help="API key, as env:NAME or file:/path. Default: none.", show_default=False)
]


def read_key(key: str | None) -> str | None:
    """Return the key that the option refers to. Exit with one line if it is no reference, or one to nothing."""
    from dragoman.server.settings_references import ReferenceUnresolved, resolve_references

    try:
        text, references = resolve_references(key, os.environ)
    except ReferenceUnresolved as error:
        raise error_exit(f"--key: {error}", USAGE_ERROR) from error
    if key is not None and not references:
        raise error_exit("--key: every user of this machine could read it; pass env:NAME or file:/path", USAGE_ERROR)
    return None if text is None else str(text)
