"""`dragoman accounts`: create and show accounts."""

from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli.database_access import ConfigOption, DatabaseOption, open_administrator, open_database
from dragoman.cli.tables import print_fields, print_table
from dragoman.cli.values import MAX_NUMBER, format_time

if TYPE_CHECKING:
    from dragoman.accounts.administration.accounts import Account

app = typer.Typer(no_args_is_help=True, help="Create and show accounts.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The account's name, which is not a number.")],
    currency: Annotated[str, typer.Option(help="Currency of its amounts.")] = "USD",
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Create an account with a balance of 0."""
    with open_administrator(database, config) as admin:
        _show(admin.create_account(name, currency))


@app.command("list")
def list_all(
    after: Annotated[int, typer.Option(help="Only accounts with higher numbers.", min=0, max=MAX_NUMBER)] = 0,
    limit: Annotated[int, typer.Option(help="Number of accounts at most.", min=1, max=MAX_NUMBER)] = 1000,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """List accounts and their balances."""
    from dragoman.accounts.administration.accounts import list_accounts
    from dragoman.core.money import format_amount

    with open_database(database, config) as db:
        accounts = list_accounts(db, after=after, limit=limit)
    columns = {"id": "right", "name": "left", "balance": "right", "holds": "right", "charges": "right", "": "left"}
    print_table(
        columns,
        (
            (
                each.id,
                each.name,
                format_amount(each.balance),
                format_amount(each.holds),
                format_amount(each.charges),
                each.currency,
            )
            for each in accounts
        ),
    )


@app.command()
def show(
    account: Annotated[str, typer.Argument(help="The account's name or number.")],
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Show one account."""
    from dragoman.accounts.administration.accounts import find_account

    with open_database(database, config) as db:
        _show(find_account(db, account))


def _show(account: "Account") -> None:
    from dragoman.core.money import format_amount

    amounts = {
        name: f"{format_amount(getattr(account, name))} {account.currency}"
        for name in ("deposits", "balance", "holds", "charges")
    }
    print_fields({"id": account.id, "name": account.name, "created": format_time(account.created_at), **amounts})
