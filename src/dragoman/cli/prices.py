"""`dragoman prices`: what a model's tokens cost."""

from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli.database import ConfigOption, DatabaseOption, administrator, opened
from dragoman.cli.tables import print_table
from dragoman.cli.values import price, shown_time, time

if TYPE_CHECKING:
    from dragoman.accounts.prices import Price

app = typer.Typer(no_args_is_help=True, help="Set and look at prices, in units for a million tokens.")


@app.command("set")
def set_one(
    model: Annotated[str, typer.Argument(help="The name of a deployment or adapter.")],
    prompt: Annotated[str, typer.Option(help="Of a million prompt tokens, as in 0.15.")],
    completion: Annotated[str, typer.Option(help="Of a million completion tokens.")],
    cached: Annotated[
        str | None, typer.Option(help="Of a million prompt tokens that were not computed anew. Default: as the others.")
    ] = None,
    valid_from: Annotated[
        str | None, typer.Option("--from", help="A date or time, of UTC unless it has an offset. Default: now.")
    ] = None,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Set a model's price. What was charged before stays as it is."""
    amounts = {"prompt": price(prompt), "completion": price(completion)}
    cached_price = None if cached is None else price(cached)
    since = 0 if valid_from is None else time(valid_from)
    with administrator(database, config) as changes:
        _show([changes.set_price(model, **amounts, cached=cached_price, valid_from=since)])


@app.command("list")
def list_all(
    model: Annotated[str | None, typer.Option(help="Only this one's.")] = None,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """List all prices there have been and will be."""
    from dragoman.accounts.prices import list_prices

    with opened(database, config) as found:
        _show(list_prices(found, model))


def _show(prices: "list[Price]") -> None:
    from dragoman.accounts.money import format_price_per_million

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
                shown_time(each.valid_from),
            )
            for each in prices
        ),
    )
