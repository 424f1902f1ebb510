"""Paying for a request that is over."""

from dragoman.accounts.ledger.batch import LedgerBatch
from dragoman.accounts.ledger.operations import Settled, Settlement
from dragoman.accounts.ledger.rows import HoldRow, PriceRow, UsageRow
from dragoman.accounts.money import MAX_TOKEN_COUNT


def validate(settlement: Settlement) -> None:
    """Raises ValueError for token counts that cannot be."""
    counts = (settlement.prompt_tokens, settlement.cached_tokens, settlement.completion_tokens)
    if (
        not all(0 <= count <= MAX_TOKEN_COUNT for count in counts)
        or settlement.cached_tokens > settlement.prompt_tokens
    ):
        raise ValueError(f"{counts} are not the prompt, cached and completion tokens of a request")


def settle(batch: LedgerBatch, hold: HoldRow, settlement: Settlement) -> Settled:
    """Charge the tokens at the prices of the admission, never more than it said the request could cost.

    A hold that was not capped covers that. One that was may be smaller: the balance then pays the rest, below zero if
    need be, since the tokens were delivered.
    """
    price = PriceRow(hold.price_id, hold.model, hold.prompt_price, hold.cached_price, hold.completion_price)
    cost = price.cost(settlement.prompt_tokens, settlement.cached_tokens, settlement.completion_tokens)
    charge = min(cost, hold.most_charge)
    usage_row = UsageRow(
        hold.request_id,
        hold.account_id,
        hold.key_id,
        hold.price_id,
        hold.model,
        hold.dialect,
        hold.admitted_at,
        batch.now.wall,
        settlement.result,
        settlement.prompt_tokens,
        settlement.cached_tokens,
        settlement.completion_tokens,
        charge,
    )
    batch.end_hold(hold, usage_row)
    return Settled(hold.request_id, charge, settlement.result)


def already_settled(usage_row: UsageRow) -> Settled:
    """The answer to a settlement that comes again."""
    # The database checks that a result is one of those there are.
    return Settled(usage_row.request_id, usage_row.charge, usage_row.result, repeated=True)  # type: ignore[arg-type]
