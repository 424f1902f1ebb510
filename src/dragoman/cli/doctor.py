"""`dragoman doctor`: check what a server with these settings needs."""

from typing import Annotated

import msgspec
import typer

from dragoman.cli.database_access import FAILURE
from dragoman.cli.serving_options import with_serving_options
from dragoman.server.settings_loading import LoadedSettings


@with_serving_options
def doctor(
    loaded: LoadedSettings,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array of findings.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Only ask a running server with these settings for its /health.")
    ] = False,
) -> None:
    """Check whether a server would run on this machine. Change nothing.

    Checked are settings, database, disks, limits, certificate, library, models and upstreams. It takes the options
    of `dragoman serve`. The exit status is 1 if a check failed.
    """
    if live:
        from dragoman.server.liveness import is_alive

        raise typer.Exit(0 if is_alive(loaded.settings) else FAILURE)
    from dragoman.server.doctor import examine

    findings = []
    for finding in examine(loaded.settings):
        findings.append(finding._asdict())
        if not as_json:
            typer.echo(f"{finding.state:<7}  {finding.subject}: {finding.message}")
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(findings)))
    if any(finding["state"] == "failed" for finding in findings):
        raise typer.Exit(FAILURE)
