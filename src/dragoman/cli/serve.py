"""`dragoman serve`: load the settings and run the server."""

import typer

from dragoman.cli.serving_options import with_serving_options
from dragoman.server.settings_loading import LoadedSettings


@with_serving_options
def serve(loaded: LoadedSettings) -> None:
    """Run the server. Options override DRAGOMAN_ variables, which override the settings file."""
    from dragoman.server.launch import serve as launch

    raise typer.Exit(launch(loaded.settings, loaded.deprecated, loaded.read_again))
