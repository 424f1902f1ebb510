"""`dragoman chat`: chat with a running server in the terminal."""

from typing import Annotated

import typer

from dragoman.cli.key_option import KeyOption, read_key


def chat(
    model: Annotated[
        str | None,
        typer.Argument(help="Name of a served model. Default: the first one.", show_default=False),
    ] = None,
    url: Annotated[str, typer.Option(help="The server's URL.")] = "http://127.0.0.1:8000",
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    key: KeyOption = None,
) -> None:
    """Chat with a running server. Ctrl-C stops an answer, Ctrl-D ends the conversation."""
    from dragoman.cli.chat_session import run

    raise typer.Exit(run(url, model, system, read_key(key)))
