"""`dragoman serve`: load the settings and run the server."""

from typing import Annotated

import typer

from dragoman.cli.serving_options import with_serving_options
from dragoman.server.settings_loading import LoadedSettings


@with_serving_options
def serve(
    loaded: LoadedSettings,
    take_over: Annotated[
        int | None,
        typer.Option(
            help="Process of a running server of this user: use its socket, and stop it once this one is ready. "
            "Running requests end there. For upgrades without a refused request."
        ),
    ] = None,
) -> None:
    """Run the server. Options override DRAGOMAN_ variables, which override the settings file."""
    from dragoman.server.launch import serve as launch

    raise typer.Exit(launch(loaded.settings, loaded.deprecated, loaded.read_again, take_over, origins=loaded.origins))
