"""`dragoman prices`: set and show the prices of models."""

from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli.database_access import ConfigOption, DatabaseOption, open_administrator, open_database
from dragoman.cli.renamed_options import command_class
from dragoman.cli.tables import print_table
from dragoman.cli.values import format_time, read_price, read_time

if TYPE_CHECKING:
    from dragoman.accounts.administration.prices import Price

app = typer.Typer(no_args_is_help=True, help="Set and show the prices of a million tokens.")


@app.command("set", cls=command_class({"--from": "--valid-from"}))
def set_one(
    model: Annotated[str, typer.Argument(help="The name of a deployment or adapter.")],
    prompt: Annotated[str, typer.Option(help="Price of a million prompt tokens, such as 0.15.")],
    completion: Annotated[str, typer.Option(help="Price of a million completion tokens.")],
    cached: Annotated[
        str | None, typer.Option(help="Price of a million prompt tokens from the cache. Default: as --prompt.")
    ] = None,
    valid_from: Annotated[
        str | None,
        typer.Option(help="Date or time (UTC, or with an offset). Default: now."),
    ] = None,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Set a model's price. Earlier charges stay as they are."""
    amounts = {"prompt": read_price(prompt), "completion": read_price(completion)}
    cached_price = None if cached is None else read_price(cached)
    valid_from_ms = 0 if valid_from is None else read_time(valid_from)
    with open_administrator(database, config) as admin:
        _show([admin.set_price(model, **amounts, cached=cached_price, valid_from=valid_from_ms)])


@app.command("list")
def list_all(
    model: Annotated[str | None, typer.Option(help="Only prices of this model.")] = None,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """List all past, current and future prices."""
    from dragoman.accounts.administration.prices import list_prices

    with open_database(database, config) as db:
        _show(list_prices(db, model))


def _show(prices: "list[Price]") -> None:
    from dragoman.core.money import format_price_per_million

    columns = {
        "id": "right",
        "model": "left",
        "prompt": "right",
        "cached": "right",
        "completion": "right",
        "from": "left",
    }
    print_table(
        columns,
        (
            (
                each.id,
                each.model,
                format_price_per_million(each.prompt),
                format_price_per_million(each.cached),
                format_price_per_million(each.completion),
                format_time(each.valid_from),
            )
            for each in prices
        ),
    )
