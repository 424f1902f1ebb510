"""`dragoman models`: the models on this machine."""

import sys

import typer


def models() -> None:
    """List the models that can be served without a download, and those that running servers cannot load."""
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
    table = Table("id", "origin", "size", "path")
    for model in local_models:
        table.add_row(Text(model.id), model.origin, decimal(model_size(model.path)), Text(str(model.path)))
    table.add_row("echo", "repeats the prompt, needs no model", "", "built in")
    for copy in rewritten_models():
        source_name = copy.source.name if copy.source else "a file that is gone"
        table.add_row(
            "", Text(f"faster copy of {source_name}"), decimal(copy.path.stat().st_size), Text(str(copy.path))
        )
    for folder in folders_in_use():
        for failure in read_start_failures(folder):
            reason = f"a running server cannot load it ({failure.attempts} attempts): {failure.reason}"
            table.add_row(Text(failure.model), Text(reason), "", "")
    # Other programs read one line for each model, so only a terminal limits the width.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
