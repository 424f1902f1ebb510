"""`dragoman deposit`: pay money into an account."""

from typing import Annotated

import typer

from dragoman.cli.database import ConfigOption, DatabaseOption, open_administrator
from dragoman.cli.values import read_amount


def deposit(
    account: Annotated[str, typer.Argument(help="Its name or number.")],
    amount: Annotated[str, typer.Argument(help="In units of its currency, as in 12.50; negative: paid out.")],
    reference: Annotated[
        str | None, typer.Option(help="Say a payment's number: it is booked once, however often it is given.")
    ] = None,
    note: Annotated[str | None, typer.Option(help="For people.")] = None,
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
