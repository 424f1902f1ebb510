"""`dragoman models`: the models on this machine, and those that running servers load and unload."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli.database_access import FAILURE, error_exit

if TYPE_CHECKING:
    from dragoman.engines.llama.weights.sources import ModelFile
    from dragoman.server.control import ModelAction

app = typer.Typer(invoke_without_command=True)

ModelArgument = Annotated[str, typer.Argument(help="The name of a deployment.")]


@app.command()
def load(model: ModelArgument) -> None:
    """Load a model now, before its first request.

    All running servers of this user that serve it do.
    """
    _change("load", model)


@app.command()
def unload(model: ModelArgument) -> None:
    """Unload a model when it has no request. The next one loads it again.

    All running servers of this user that serve it do.
    """
    _change("unload", model)


def _change(action: "ModelAction", model: str) -> None:
    from dragoman.server.control import ModelChangeRefused, request_model_change, server_name
    from dragoman.server.runtime_folder import folders_in_use

    folders = list(folders_in_use())
    refusals = []
    for folder in folders:
        try:
            request_model_change(folder, action, model)
        except ModelChangeRefused as error:
            refusals.append(f"{server_name(folder)}: {error}")
    if len(refusals) == len(folders):  # Other servers may have other models.
        raise error_exit("; ".join(refusals) or "no server of this user runs", FAILURE)


@app.callback()
def models(context: typer.Context) -> None:
    """List models, or load and unload one.

    Listed are those that can be served without a download, and those that running servers cannot load.

    The tool format and whether a model reasons are found from its chat template.
    """
    if context.invoked_subcommand is None:
        _list()


def _list() -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    from dragoman.engines.llama.weights.gguf_files import model_size
    from dragoman.engines.llama.weights.rewriting import rewritten_models
    from dragoman.engines.llama.weights.sources import ModelSourceError, list_local
    from dragoman.engines.llama.wire.start_failure import read_start_failures
    from dragoman.server.runtime_folder import folders_in_use

    try:
        local_models = list_local()
    except ModelSourceError as error:
        typer.echo(f"dragoman: {error}", err=True)
        raise typer.Exit(2) from error
    rows: list[tuple[str | Text, ...]] = []
    for model in local_models:
        size, path = decimal(model_size(model.path)), Text(str(model.path))
        rows.append((Text(model.id), model.origin, size, *_chat_columns(model), path))
    rows.append(("echo", "repeats the prompt, needs no model", "", "generic", "no", "built in"))
    for copy in rewritten_models():
        source_name = copy.source.name if copy.source else "a file that is gone"
        size, path = decimal(copy.path.stat().st_size), Text(str(copy.path))
        rows.append(("", Text(f"faster copy of {source_name}"), size, "", "", path))
    for folder in folders_in_use():
        for failure in read_start_failures(folder):
            reason = f"a running server cannot load it ({failure.attempts} attempts): {failure.reason}"
            rows.append((Text(failure.model), Text(reason), "", "", "", ""))
    table = Table("id", "origin", "size", "tool format", "reasons", "path")
    for row in rows:
        table.add_row(*row)
    # Other programs read one line for each model, so only a terminal limits the width.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)


def _chat_columns(model: "ModelFile") -> tuple[str, str]:
    """Return the model's tool format and whether it reasons. Both are empty if its file cannot be read."""
    from dragoman.engines.llama.weights.gguf_files import ModelSourceError
    from dragoman.engines.llama.weights.gguf_metadata import chat_template
    from dragoman.prompt.template import MAX_STEPS_IN_PLACE, ChatTemplate

    try:
        source = model.chat_template or chat_template(model.path)
    except ModelSourceError:
        return "", ""
    template = ChatTemplate(source, bos="", eos="", max_steps=MAX_STEPS_IN_PLACE)
    return template.tool_format, "yes" if template.supports_reasoning else "no"
