"""`dragoman usage`: sums of requests, tokens and charges."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dragoman.cli.database_access import ConfigOption, DatabaseOption, open_database
from dragoman.cli.tables import print_table
from dragoman.cli.values import MAX_NUMBER, read_day

if TYPE_CHECKING:
    from dragoman.accounts.administration.usage import UsageSum


class UsageGrouping(StrEnum):
    """What a row sums up."""

    DAY = "day"
    MODEL = "model"
    KEY = "key"


_COLUMNS: dict[UsageGrouping, Literal["day", "model", "key_id"]] = {
    UsageGrouping.DAY: "day",
    UsageGrouping.MODEL: "model",
    UsageGrouping.KEY: "key_id",
}


def usage(
    group_by: Annotated[UsageGrouping, typer.Option(help="One row for each day, model or key.")] = UsageGrouping.DAY,
    account: Annotated[str | None, typer.Option(help="Only usage of this account, by its name or number.")] = None,
    key: Annotated[int | None, typer.Option(help="Only usage of this key, by its number.", max=MAX_NUMBER)] = None,
    model: Annotated[str | None, typer.Option(help="Only usage of this model.")] = None,
    since: Annotated[str | None, typer.Option(help="First day in UTC, such as 2026-01-31.")] = None,
    until: Annotated[str | None, typer.Option(help="Last day.")] = None,
    limit: Annotated[int, typer.Option(help="Number of rows at most.", min=1, max=MAX_NUMBER)] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an array of objects.")] = False,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Show sums of requests, tokens and charges."""
    from dragoman.accounts.administration.accounts import find_account
    from dragoman.accounts.administration.usage import UsageFilter, sum_usage

    first, last = (None if each is None else read_day(each) for each in (since, until))
    with open_database(database, config) as db:
        account_id = None if account is None else find_account(db, account).id
        usage_filter = UsageFilter(account_id=account_id, key_id=key, model=model, first_day=first, last_day=last)
        sums = sum_usage(db, _COLUMNS[group_by], usage_filter, limit=limit)
    if as_json:
        _print_json(group_by, sums)
    else:
        _print_table(group_by, sums)


def _print_json(group_by: UsageGrouping, sums: "list[UsageSum]") -> None:
    import msgspec

    from dragoman.core.money import format_amount

    rows = [
        {
            str(group_by): _group_label(group_by, each),
            "requests": each.requests,
            "prompt_tokens": each.prompt_tokens,
            "cached_tokens": each.cached_tokens,
            "completion_tokens": each.completion_tokens,
            "charge": format_amount(each.charge),
        }
        for each in sums
    ]
    typer.echo(msgspec.json.format(msgspec.json.encode(rows)).decode())


def _print_table(group_by: UsageGrouping, sums: "list[UsageSum]") -> None:
    from dragoman.core.money import format_amount

    names = ("requests", "prompt tokens", "cached tokens", "completion tokens", "charge")
    print_table(
        {str(group_by): "left", **dict.fromkeys(names, "right")},
        (
            (
                _group_label(group_by, each),
                each.requests,
                each.prompt_tokens,
                each.cached_tokens,
                each.completion_tokens,
                format_amount(each.charge),
            )
            for each in sums
        ),
    )


def _group_label(group_by: UsageGrouping, each: "UsageSum") -> int | str:
    from dragoman.accounts.times import from_day_number

    return from_day_number(int(each.group)).isoformat() if group_by is UsageGrouping.DAY else each.group
