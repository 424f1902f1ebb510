"""`dragoman db`: the tables of the accounts' database."""

import typer

from dragoman.cli.database import FAILURE, ConfigOption, DatabaseOption, open_database

app = typer.Typer(no_args_is_help=True, help="Make and check the tables of the accounts' database.")


@app.command()
def upgrade(database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Make what is missing. Safe to repeat, and while servers run that need no more than there was."""
    from dragoman.accounts.database import migrations
    from dragoman.server.accounts_location import create_database_folder

    with open_database(database, config, current=False) as accounts_database:
        create_database_folder(accounts_database)
        made = migrations.upgrade(accounts_database)
    typer.echo(f"applied: {', '.join(made)}" if made else "nothing to do")


@app.command()
def status(database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Show which steps were made and which are missing; the exit status is 1 if any is, or one is unknown."""
    from dragoman.accounts.database import migrations

    with open_database(database, config, current=False) as accounts_database:
        state = migrations.migration_status(accounts_database)
    for word, steps in (("applied", state.applied), ("missing", state.pending), ("unknown", state.unknown)):
        for number, name in steps:
            if word != "applied" or (number, name) not in state.unknown:
                typer.echo(f"{word}  {number:>4}  {name}")
    if state.pending or state.unknown:
        raise typer.Exit(FAILURE)
