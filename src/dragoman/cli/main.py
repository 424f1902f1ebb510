"""The `dragoman` program: its commands and the options before them."""

import errno
import io
import sys
from typing import Annotated

import typer

from dragoman import __version__
from dragoman.cli import accounts, config, db, jobs, keys, models, prices, ray, upstreams
from dragoman.cli.chat import chat
from dragoman.cli.conformance import conformance
from dragoman.cli.database_access import FAILURE
from dragoman.cli.deposit import deposit
from dragoman.cli.doctor import doctor
from dragoman.cli.reload import reload
from dragoman.cli.renamed_options import command_class, keep_for_command
from dragoman.cli.serve import serve
from dragoman.cli.serving_options import RENAMED_OPTIONS
from dragoman.cli.usage import usage
from dragoman.core.child_process import discard_standard_output

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich takes long to import
    pretty_exceptions_enable=False,  # they print local variables, which may be secrets
)
app.command(cls=command_class(RENAMED_OPTIONS, keep_for_command))(serve)
app.command()(reload)
app.command(cls=command_class(RENAMED_OPTIONS, keep_for_command))(doctor)
app.add_typer(models.app, name="models")
app.command()(conformance)
app.command()(chat)
app.add_typer(config.app, name="config")
app.add_typer(accounts.app, name="accounts")
# A negative amount begins with a dash, as options do.
app.command(context_settings={"ignore_unknown_options": True})(deposit)
app.add_typer(keys.app, name="keys")
app.add_typer(prices.app, name="prices")
app.add_typer(jobs.app, name="jobs")
app.add_typer(upstreams.app, name="upstreams")
app.add_typer(ray.app, name="ray")
app.command(cls=command_class({"--by": "--group-by"}))(usage)
app.add_typer(db.app, name="db")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dragoman {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """A self-hosted LLM API server."""


def main() -> None:
    """Run the command line and exit."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # A name that the locale lacks is no reason to fail.
    try:
        app(prog_name="dragoman")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        discard_standard_output()
        typer.echo(f"dragoman: {error.filename or 'standard output'}: {error.strerror}", err=True)
        sys.exit(FAILURE)


if __name__ == "__main__":
    main()
