"""`dragoman serve`: load the settings and run the server."""

import os
from pathlib import Path
from typing import Annotated

import typer

from dragoman.server.settings import Settings, SettingsError, load_settings

_DEFAULTS = Settings()


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A .gguf file, a Hugging Face repository (owner/name or owner/name:QUANTIZATION), or echo. "
            "Default: the bundled model.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help=f"Address to listen on. Default: {_DEFAULTS.host}.")] = None,
    port: Annotated[
        int | None, typer.Option(help=f"Port to listen on; 0: any free one. Default: {_DEFAULTS.port}.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help=f"HTTP processes. Default: {_DEFAULTS.workers}.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file. Default: ./dragoman.toml, if any.")] = None,
    context_cells: Annotated[
        int | None,
        typer.Option(help=f"Tokens that all requests hold together. Default: {_DEFAULTS.engine.context_cells}."),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(help=f"Requests that are answered together. Default: {_DEFAULTS.engine.parallel}."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine. Default: all cores.")] = None,
    rewrite_weights: Annotated[
        str | None,
        typer.Option(
            help="auto or never: serve a copy, made once, of a model whose quantisation is slow on this machine. "
            f"Default: {_DEFAULTS.engine.rewrite_weights}."
        ),
    ] = None,
    open_to_all: Annotated[
        bool | None, typer.Option("--open", help="Serve beyond this machine although there are no keys.")
    ] = None,
    max_waiting: Annotated[
        int | None,
        typer.Option(help=f"Requests that may wait for a free slot. Default: {_DEFAULTS.max_waiting}."),
    ] = None,
) -> None:
    """Run the server. Options win over DRAGOMAN_ variables, and those over the settings file."""
    overrides = {
        "model": model,
        "host": host,
        "port": port,
        "workers": workers,
        "open": open_to_all,
        "max_waiting": max_waiting,
        "engine.context_cells": context_cells,
        "engine.parallel": parallel,
        "engine.threads": threads,
        "engine.rewrite_weights": rewrite_weights,
    }
    try:
        settings = load_settings(config, os.environ, overrides)
    except SettingsError as error:
        typer.echo(f"dragoman: {error}", err=True)
        raise typer.Exit(2) from error

    from dragoman.server.launch import serve as launch

    raise typer.Exit(launch(settings))
