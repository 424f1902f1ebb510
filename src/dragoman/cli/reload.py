"""`dragoman reload`: have running servers read their settings again."""

from typing import Annotated

import msgspec
import typer

from dragoman.cli.database_access import FAILURE, error_exit


def reload(
    process: Annotated[
        int | None, typer.Argument(help="Number of the server's process. Default: all servers of this user.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each server.")] = False,
) -> None:
    """Have running servers read their settings again. The exit status is 1 if one refuses them.

    A server that refuses goes on with the old settings.
    """
    from dragoman.server.control import request_reload, server_name, server_process
    from dragoman.server.reloading import ReloadRefused
    from dragoman.server.runtime_folder import folders_in_use

    folders = [folder for folder in folders_in_use() if process is None or server_process(folder) == process]
    if not folders:
        which = "no server of this user runs" if process is None else f"process {process} is no server of this user"
        raise error_exit(which, FAILURE)
    refusals = []
    for folder in folders:
        server = server_name(folder)
        try:
            result = request_reload(folder)
        except ReloadRefused as error:
            refusals.append(f"{server}: {error}")
            continue
        if as_json:
            typer.echo(msgspec.json.encode(result))
            continue
        typer.echo(f"{server}: generation {result.generation}, changed: {', '.join(result.changed) or 'nothing'}")
        if result.restart_needed:
            typer.echo(f"{server}: restart needed: {', '.join(result.restart_needed)}")
    if refusals:
        raise error_exit("; ".join(refusals), FAILURE)
