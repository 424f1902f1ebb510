"""`dragoman serve`: load the settings and run the server."""

import os
from typing import Annotated, TypeAlias

import typer

from dragoman.cli.database_access import ConfigOption
from dragoman.cli.renamed_options import deprecated_options
from dragoman.server.renamed_settings import RENAMED_SETTINGS
from dragoman.server.settings import Settings
from dragoman.server.settings_loading import SettingsError, flag, read_settings

_DEFAULTS = Settings()

SETTINGS_WITH_OPTION = (
    "model",
    "host",
    "port",
    "workers",
    "allow_unauthenticated",
    "root_path",
    "max_waiting_requests",
    "engine.kv_cache_tokens",
    "engine.max_sequences",
    "engine.threads",
    "engine.requantize",
)
"""Keys of the settings that the command takes, as options or as its argument `model`."""

RENAMED_OPTIONS = {flag(old): flag(key) for old, key in RENAMED_SETTINGS.items() if key in SETTINGS_WITH_OPTION}
"""Old option → option."""


ModelArgument: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        help="A .gguf file, a Hugging Face repository (owner/name or owner/name:QUANTIZATION), or echo. "
        "Default: the bundled model.",
        show_default=False,
    ),
]
HostOption: TypeAlias = Annotated[str | None, typer.Option(help=f"Address to listen on. Default: {_DEFAULTS.host}.")]
PortOption: TypeAlias = Annotated[
    int | None, typer.Option(help=f"Port to listen on. 0: any free port. Default: {_DEFAULTS.port}.")
]
WorkersOption: TypeAlias = Annotated[
    int | None, typer.Option(help=f"HTTP worker processes. Default: {_DEFAULTS.workers}.")
]
KvCacheTokensOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Tokens that all running sequences together may hold in the KV cache. "
        f"Default: {_DEFAULTS.engine.kv_cache_tokens}."
    ),
]
MaxSequencesOption: TypeAlias = Annotated[
    int | None, typer.Option(help=f"Sequences that decode in one batch. Default: {_DEFAULTS.engine.max_sequences}.")
]
ThreadsOption: TypeAlias = Annotated[int | None, typer.Option(help="Threads of an engine. Default: one for each core.")]
RequantizeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="auto or never: serve a copy, made once, of a model whose quantisation is slow on this machine. "
        f"Default: {_DEFAULTS.engine.requantize}."
    ),
]
AllowUnauthenticatedOption: TypeAlias = Annotated[
    bool | None,
    typer.Option("--allow-unauthenticated", help="Listen on addresses other than loopback although no keys are set."),
]
RootPathOption: TypeAlias = Annotated[
    str | None, typer.Option(help="Path below which a reverse proxy serves the server, such as /llm. Default: none.")
]
MaxWaitingRequestsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(help=f"Requests that may wait for a slot of an engine. Default: {_DEFAULTS.max_waiting_requests}."),
]


def serve(
    context: typer.Context,
    model: ModelArgument = None,
    host: HostOption = None,
    port: PortOption = None,
    workers: WorkersOption = None,
    config: ConfigOption = None,
    kv_cache_tokens: KvCacheTokensOption = None,
    max_sequences: MaxSequencesOption = None,
    threads: ThreadsOption = None,
    requantize: RequantizeOption = None,
    allow_unauthenticated: AllowUnauthenticatedOption = None,
    root_path: RootPathOption = None,
    max_waiting_requests: MaxWaitingRequestsOption = None,
) -> None:
    """Run the server. Options override DRAGOMAN_ variables, which override the settings file."""
    overrides: dict[str, object] = {
        "model": model,
        "host": host,
        "port": port,
        "workers": workers,
        "allow_unauthenticated": allow_unauthenticated,
        "root_path": root_path,
        "max_waiting_requests": max_waiting_requests,
        "engine.kv_cache_tokens": kv_cache_tokens,
        "engine.max_sequences": max_sequences,
        "engine.threads": threads,
        "engine.requantize": requantize,
    }
    try:
        loaded = read_settings(config, os.environ, overrides)
    except SettingsError as error:
        typer.echo(f"dragoman: {error}", err=True)
        raise typer.Exit(2) from error

    from dragoman.server.launch import serve as launch

    raise typer.Exit(launch(loaded.settings, {**loaded.deprecated, **deprecated_options(context)}))
