"""Charge a request that has ended."""

from dragoman.accounts.ledger.batch import LedgerBatch
from dragoman.accounts.ledger.operations import Settled, Settlement
from dragoman.accounts.ledger.rows import HoldRow, PriceRow, UsageRow
from dragoman.core.money import MAX_TOKEN_COUNT


def validate(settlement: Settlement) -> None:
    """Raises ValueError for impossible token counts."""
    counts = (settlement.prompt_tokens, settlement.cached_tokens, settlement.completion_tokens)
    if (
        not all(0 <= count <= MAX_TOKEN_COUNT for count in counts)
        or settlement.cached_tokens > settlement.prompt_tokens
    ):
        raise ValueError(f"{counts} are not the prompt, cached and completion tokens of a request")


def settle(batch: LedgerBatch, hold: HoldRow, settlement: Settlement) -> Settled:
    """Charge the tokens at the prices of the admission, up to the maximum cost that was computed there.

    A hold without a cap covers the charge. A capped hold may be smaller: the balance pays the rest, below zero if
    necessary, since the tokens were delivered.
    """
    price = PriceRow(
        id=hold.price_id,
        model=hold.model,
        prompt=hold.prompt_price,
        cached=hold.cached_price,
        completion=hold.completion_price,
    )
    cost = price.cost(settlement.prompt_tokens, settlement.cached_tokens, settlement.completion_tokens)
    charge = min(cost, hold.most_charge)
    usage_row = UsageRow(
        request_id=hold.request_id,
        account_id=hold.account_id,
        key_id=hold.key_id,
        price_id=hold.price_id,
        model=hold.model,
        dialect=hold.dialect,
        admitted_at=hold.admitted_at,
        settled_at=batch.now.wall,
        result=settlement.result,
        prompt_tokens=settlement.prompt_tokens,
        cached_tokens=settlement.cached_tokens,
        completion_tokens=settlement.completion_tokens,
        charge=charge,
    )
    batch.end_hold(hold, usage_row)
    return Settled(hold.request_id, charge, settlement.result)


def already_settled(usage_row: UsageRow) -> Settled:
    """Answer a repeated settlement with the first result."""
    # A constraint of the table limits the results to those of SettlementResult.
    return Settled(usage_row.request_id, usage_row.charge, usage_row.result, repeated=True)  # type: ignore[arg-type]
