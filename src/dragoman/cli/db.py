"""`dragoman db`: create, check and back up the accounts' database."""

from pathlib import Path
from typing import Annotated

import typer

from dragoman.cli.database_access import FAILURE, ConfigOption, DatabaseOption, error_exit, open_database

app = typer.Typer(no_args_is_help=True, help="Create, check and back up the accounts' database.")


@app.command()
def upgrade(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing. The exit status is 1 if migrations are missing.")
    ] = False,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Apply missing migrations. Safe to repeat, and safe while servers of the old version run."""
    from dragoman.accounts.database import migrations
    from dragoman.server.accounts_location import create_database_folder

    if check:
        with open_database(database, config):
            typer.echo("nothing to do")
        return
    with open_database(database, config, current=False) as accounts_database:
        create_database_folder(accounts_database)
        made = migrations.upgrade(accounts_database)
    typer.echo(f"applied: {', '.join(made)}" if made else "nothing to do")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="New file for the backup.", show_default=False)],
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Copy the database, also while servers run. The copy is its state at one moment.

    SQLite's copy is a database again; PostgreSQL's is for pg_restore, and made by the program pg_dump.
    """
    from dragoman.accounts.database.backup import BackupFailed, back_up
    from dragoman.accounts.database.migrations import require_existing

    with open_database(database, config, current=False) as accounts_database:
        require_existing(accounts_database)
        try:
            back_up(accounts_database, file)
        except BackupFailed as error:
            raise error_exit(str(error), FAILURE) from error
    typer.echo(f"{file}: {file.stat().st_size:,} bytes")


@app.command()
def verify(database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Check that the books balance.

    All figures that are stored twice must agree: deposits = balance + holds + charges, and all sums.

    Safe while servers run. For a backup of SQLite, pass --database sqlite:///FILE. The exit status
    is 1 if any is wrong.
    """
    from dragoman.accounts.administration.consistency import find_discrepancies
    from dragoman.accounts.database.backup import find_damage

    with open_database(database, config) as accounts_database:
        damage = find_damage(accounts_database)
        wrong = [] if damage else find_discrepancies(accounts_database)
    for problem in damage:
        typer.echo(f"damaged: {problem}")
    for each in wrong:
        typer.echo(f"{each.invariant}, id {each.id}: {each.stored} is stored, {each.computed} computed")
    if damage or wrong:
        raise typer.Exit(FAILURE)
    typer.echo("the books balance")


@app.command()
def status(database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """List applied, missing and unknown migrations. The exit status is 1 if any is missing or unknown."""
    from dragoman.accounts.database import migrations

    with open_database(database, config, current=False) as accounts_database:
        migrations.require_existing(accounts_database)
        state = migrations.migration_status(accounts_database)
    for word, steps in (("applied", state.applied), ("missing", state.pending), ("unknown", state.unknown)):
        for number, name in steps:
            if word != "applied" or (number, name) not in state.unknown:
                typer.echo(f"{word}  {number:>4}  {name}")
    if state.pending or state.unknown:
        raise typer.Exit(FAILURE)


@app.command("rebuild-usage")
def rebuild_usage(database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Compute all sums of usage again. Settlements of running servers wait meanwhile."""
    from dragoman.accounts.administration.usage_rebuild import rebuild_usage_sums

    with open_database(database, config) as accounts_database:
        rows = rebuild_usage_sums(accounts_database)
    typer.echo(f"{rows} sums of hours")
