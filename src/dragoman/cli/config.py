"""`dragoman config`: check the settings and show where each was set, without starting a server."""

from typing import Annotated

import msgspec
import typer

from dragoman.cli.database_access import USAGE_ERROR, error_exit
from dragoman.cli.renamed_options import command_class, keep_for_command
from dragoman.cli.serving_options import RENAMED_OPTIONS, with_serving_options
from dragoman.server.settings_loading import LoadedSettings

app = typer.Typer(no_args_is_help=True, help="Check the settings, and show where each was set.")
_Command = command_class(RENAMED_OPTIONS, keep_for_command)


@app.command(cls=_Command)
@with_serving_options
def check(loaded: LoadedSettings) -> None:
    """Check the settings.

    They are those that `dragoman serve` would use with the same options. The exit status is 2 if any is wrong.
    Models and the database are not touched: see `dragoman doctor`.
    """
    from dragoman.server.start_checks import StartupError, check_settings

    try:
        check_settings(loaded.settings)
    except StartupError as error:
        raise error_exit(str(error), USAGE_ERROR) from error
    for old, current in loaded.deprecated.items():
        typer.echo(f"deprecated: {old} (now {current})")
    typer.echo(f"the settings are valid; {len(loaded.origins)} of them are set")


@app.command(cls=_Command)
@with_serving_options
def show(
    loaded: LoadedSettings,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object: key → value and origin.")] = False,
) -> None:
    """Show each setting and where it was set.

    They are those that `dragoman serve` would use with the same options. Secrets are masked.
    """
    from dragoman.server.settings_report import report_settings

    reported = list(report_settings(loaded))
    if as_json:
        typer.echo(
            msgspec.json.format(
                msgspec.json.encode({each.key: {"value": each.value, "origin": each.origin} for each in reported})
            )
        )
        return
    for key, value, origin in reported:
        typer.echo(f"{key} = {'not set' if value is None else msgspec.json.encode(value).decode()}  # {origin}")
