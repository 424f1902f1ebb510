"""`dragoman deposit`: pay money into an account, or out of it."""

from typing import Annotated

import typer

from dragoman.cli.database_access import ConfigOption, DatabaseOption, open_administrator
from dragoman.cli.values import read_amount


def deposit(
    account: Annotated[str, typer.Argument(help="The account's name or number.")],
    amount: Annotated[str, typer.Argument(help="In units of its currency, such as 12.50. Negative: a payout.")],
    reference: Annotated[
        str | None,
        typer.Option(help="A payment's number, for example. Deposits with one reference are booked once."),
    ] = None,
    note: Annotated[str | None, typer.Option(help="A note for people.")] = None,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Pay money into an account, or out of its balance."""
    from dragoman.accounts.administration.accounts import find_account
    from dragoman.core.money import format_amount

    nano_units = read_amount(amount)
    with open_administrator(database, config) as admin:
        found_account = find_account(admin.database, account)
        admin.deposit(found_account.id, nano_units, reference=reference, note=note)
        balance = format_amount(find_account(admin.database, str(found_account.id)).balance)
    typer.echo(f"{found_account.name} has a balance of {balance} {found_account.currency}")
