"""The options of `dragoman serve`, made from the settings. Commands that look at the same settings take them too."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from dragoman.cli.database_access import USAGE_ERROR, ConfigOption, error_exit
from dragoman.cli.renamed_options import deprecated_options
from dragoman.server.renamed_settings import RENAMED_SETTINGS
from dragoman.server.settings import Settings
from dragoman.server.settings_loading import SettingsError, flag, read_settings

_DEFAULTS = Settings()

_HELP: Mapping[str, str] = {
    "model": "A .gguf file, a Hugging Face repository (owner/name or owner/name:QUANTIZATION), echo, or "
    "the URL of another server. Default: the bundled model.",
    "host": "Address to listen on.",
    "port": "Port to listen on. 0: any free port.",
    "uds": "Unix socket to listen on instead of the port.",
    "api_key": "API key that clients need, as env:NAME or file:/path.",
    "ssl_certfile": "Certificate in PEM: serve TLS.",
    "ssl_keyfile": "The certificate's key in PEM. Default: in --ssl-certfile.",
    "ssl_ca_certs": "Authorities in PEM, of one of which clients must have a certificate.",
    "workers": "HTTP worker processes.",
    "allow_unauthenticated": "Listen on addresses other than loopback although no keys are set.",
    "root_path": "Path below which a reverse proxy serves the server, such as /llm. Default: none.",
    "log_level": "Least severe level that is logged: debug, info, warning or error.",
    "log_format": "text or json.",
    "access_log": "Log each request when it ends.",
    "max_waiting_requests": "Requests that may wait for a slot of an engine.",
    "engine.kv_cache_tokens": "Tokens that all running sequences together may hold in the KV cache.",
    "engine.max_sequences": "Sequences that decode in one batch.",
    "engine.threads": "Threads of an engine. Default: one for each core.",
    "engine.embeddings": "Serve a model for generation as one for embeddings. Models for embeddings do not need it.",
    "engine.mmproj": "Projector file (mmproj) of a model that takes images.",
    "engine.requantize": "auto or never: serve a copy, made once, of a model whose quantisation is slow on this "
    "machine.",
}

SETTINGS_WITH_OPTION = tuple(_HELP)
"""Keys of the settings that the commands take, as options or as the argument `model`."""

RENAMED_OPTIONS = {flag(old): flag(key) for old, key in RENAMED_SETTINGS.items() if key in SETTINGS_WITH_OPTION}
"""Old option → option."""


def with_serving_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with an option for each setting above. Called, it loads the settings and passes them on first.

    It exits with one line if a setting is wrong.
    """

    @functools.wraps(command)
    def load_and_call(context: typer.Context, config: Path | None, **options: Any) -> None:
        overrides = {key: options.pop(_parameter_name(key)) for key in SETTINGS_WITH_OPTION}
        try:
            loaded = read_settings(config, os.environ, overrides)
        except SettingsError as error:
            raise error_exit(str(error), USAGE_ERROR) from error
        command(loaded._replace(deprecated={**loaded.deprecated, **deprecated_options(context)}), **options)

    _, *own = inspect.signature(command).parameters.values()
    model, *others = map(_parameter, SETTINGS_WITH_OPTION)
    signature = inspect.Signature(
        [
            inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
            model,
            inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOption),
            *others,
            *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own),
        ]
    )
    load_and_call.__signature__ = signature  # type: ignore[attr-defined] # which is what typer reads
    load_and_call.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return load_and_call


def _parameter_name(key: str) -> str:
    return key.rpartition(".")[2]


def _parameter(key: str) -> inspect.Parameter:
    *groups, name = key.split(".")
    default: Any = _DEFAULTS
    for part in (*groups, name):
        default = getattr(default, part)
    help_text = _HELP[key] if default is None or default is False else f"{_HELP[key]} Default: {default}."
    declared: Any = (
        typer.Argument(help=help_text, show_default=False)
        if key == "model"
        else typer.Option(help=help_text, show_default=False)
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[_kind(key), declared]
    )


def _kind(key: str) -> Any:
    """Return the type of an option: that of the setting without its bounds, which the settings check."""
    info: Any = _settings_info()
    for name in key.split("."):
        info = next(field.type for field in info.fields if field.name == name)
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    for kind in kinds:
        match kind:
            case msgspec.inspect.BoolType():
                return bool | None
            case msgspec.inspect.IntType():
                return int | None
    return str | None


@functools.cache
def _settings_info() -> msgspec.inspect.Type:
    """Return the types of all settings. Reading them takes a third of the time in which the command line starts."""
    return msgspec.inspect.type_info(Settings)
