"""`dragoman keys`: create, show and revoke API keys."""

from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli.database_access import (
    USAGE_ERROR,
    ConfigOption,
    DatabaseOption,
    error_exit,
    open_administrator,
    open_database,
)
from dragoman.cli.renamed_options import command_class
from dragoman.cli.tables import print_fields, print_table
from dragoman.cli.values import MAX_NUMBER, format_time, read_amount, read_time

if TYPE_CHECKING:
    from dragoman.accounts.administration.keys import Key

app = typer.Typer(no_args_is_help=True, help="Create, show and revoke API keys.")

KeyArgument = Annotated[int, typer.Argument(metavar="KEY", help="The key's number.", max=MAX_NUMBER)]


@app.command(cls=command_class({"--expires": "--expires-at"}))
def create(
    account: Annotated[str, typer.Argument(help="Name or number of the account that pays.")],
    label: Annotated[str, typer.Option(help="The key's name, for people.")] = "",
    other_account: Annotated[
        list[str] | None, typer.Option(help="Another account that requests may select. May be repeated.")
    ] = None,
    expires_at: Annotated[str | None, typer.Option(help="Date or time (UTC, or with an offset).")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model it may use. May be repeated. Default: all.")] = None,
    dialect: Annotated[
        list[str] | None, typer.Option(help="A dialect it may use. May be repeated. Default: all.")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Amount that it may spend, such as 12.50.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Requests per minute.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Tokens per minute.")] = None,
    concurrent_requests: Annotated[int | None, typer.Option(min=1, help="Requests at the same time.")] = None,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Create a key and print it, once: it is not stored. Limits that are not given do not apply."""
    from dragoman.accounts.administration.accounts import find_account
    from dragoman.accounts.administration.keys import KeyRules
    from dragoman.dialects.registry import REGISTERED_DIALECTS

    unknown = sorted(set(dialect or ()) - set(REGISTERED_DIALECTS))
    if unknown:
        raise error_exit(f"there is no dialect {unknown[0]!r}; there are {', '.join(REGISTERED_DIALECTS)}", USAGE_ERROR)
    rules = KeyRules(
        expires_at=None if expires_at is None else read_time(expires_at),
        models=tuple(model) if model else None,
        dialects=tuple(dialect) if dialect else None,
        budget=None if budget is None else read_amount(budget),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrent_requests=concurrent_requests,
    )
    with open_administrator(database, config) as admin:
        others = tuple(find_account(admin.database, name).id for name in other_account or ())
        account_id = find_account(admin.database, account).id
        created = admin.create_key(account_id, label=label, rules=rules, other_accounts=others)
    typer.echo(f"dragoman: key {created.key.id}; it is not shown again", err=True)
    typer.echo(created.secret)


@app.command("list")
def list_all(
    account: Annotated[str | None, typer.Option(help="Only keys that may use this account.")] = None,
    after: Annotated[int, typer.Option(help="Only keys with higher numbers.", min=0, max=MAX_NUMBER)] = 0,
    limit: Annotated[int, typer.Option(help="Number of keys at most.", min=1, max=MAX_NUMBER)] = 1000,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """List keys. Of each, only the last characters are shown."""
    from dragoman.accounts.administration.accounts import find_account
    from dragoman.accounts.administration.keys import list_keys
    from dragoman.core.money import format_amount

    with open_database(database, config) as db:
        account_id = None if account is None else find_account(db, account).id
        keys = list_keys(db, account_id=account_id, after=after, limit=limit)
    columns = {"id": "right", "key": "left", "label": "left", "account": "right", "spent": "right", "state": "left"}
    print_table(
        columns,
        (
            (each.id, f"…{each.ending}", each.label, each.account_id, format_amount(each.spent), _state(each))
            for each in keys
        ),
    )


@app.command()
def show(key: KeyArgument, database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Show a key's rules and spending."""
    from dragoman.accounts.administration.keys import get_key
    from dragoman.core.money import format_amount

    with open_database(database, config) as db:
        key_entry = get_key(db, key)
    rules = key_entry.rules
    print_fields(
        {
            "id": key_entry.id,
            "key": f"…{key_entry.ending}",
            "label": key_entry.label,
            "state": _state(key_entry),
            "account": key_entry.account_id,
            "accounts": key_entry.account_ids,
            "created": format_time(key_entry.created_at),
            "expires": format_time(rules.expires_at),
            "models": rules.models,
            "dialects": rules.dialects,
            "budget": None if rules.budget is None else format_amount(rules.budget),
            "requests per minute": rules.requests_per_minute,
            "tokens per minute": rules.tokens_per_minute,
            "concurrent requests": rules.concurrent_requests,
            "spent": format_amount(key_entry.spent),
            "held": format_amount(key_entry.held),
            "running": key_entry.running,
        }
    )


@app.command()
def revoke(key: KeyArgument, database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Reject a key from now on, on every server that uses the database."""
    with open_administrator(database, config) as admin:
        revoked = admin.revoke_key(key)
    typer.echo(f"key {revoked.id} (…{revoked.ending}) is revoked")


def _state(key: "Key") -> str:
    return "usable" if key.disabled_at is None else f"revoked {format_time(key.disabled_at)}"
