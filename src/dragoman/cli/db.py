"""`dragoman db`: create and check the tables of the accounts' database."""

import typer

from dragoman.cli.database_access import FAILURE, ConfigOption, DatabaseOption, open_database

app = typer.Typer(no_args_is_help=True, help="Create and check the tables of the accounts' database.")


@app.command()
def upgrade(database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Apply missing migrations. Safe to repeat, and safe while servers of the old version run."""
    from dragoman.accounts.database import migrations
    from dragoman.server.accounts_location import create_database_folder

    with open_database(database, config, current=False) as accounts_database:
        create_database_folder(accounts_database)
        made = migrations.upgrade(accounts_database)
    typer.echo(f"applied: {', '.join(made)}" if made else "nothing to do")


@app.command()
def status(database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """List applied, missing and unknown migrations. The exit status is 1 if any is missing or unknown."""
    from dragoman.accounts.database import migrations

    with open_database(database, config, current=False) as accounts_database:
        state = migrations.migration_status(accounts_database)
    for word, steps in (("applied", state.applied), ("missing", state.pending), ("unknown", state.unknown)):
        for number, name in steps:
            if word != "applied" or (number, name) not in state.unknown:
                typer.echo(f"{word}  {number:>4}  {name}")
    if state.pending or state.unknown:
        raise typer.Exit(FAILURE)
