"""What the ledger decides about a request: whether it may run, and what it costs when it has ended.

The order of an admission's checks decides which failure a client receives.
"""

import msgspec

from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.accounts.ledger.batch import AccountState, ApiKeyState, LedgerBatch
from dragoman.accounts.ledger.operations import (
    Admission,
    Admitted,
    KeyInfo,
    KeyLookup,
    LedgerOperation,
    Settled,
    Settlement,
)
from dragoman.accounts.ledger.rows import HoldRow, ModelTerms, PriceRow, UsageRow
from dragoman.accounts.times import to_datetime
from dragoman.core import logs
from dragoman.core.errors import (
    AccountNotAllowed,
    BalanceTooLow,
    BudgetExceeded,
    DialectNotAllowed,
    KeyDisabled,
    KeyExpired,
    KeyUnknown,
    ModelNotAllowed,
    TooManyRunning,
)
from dragoman.core.money import MAX_AMOUNT, MAX_TOKEN_COUNT, InvalidAmount, check_amount
from dragoman.core.rate_limits import NO_LIMITS, Allowances

_MAX_REQUEST_ID_LENGTH = 64

MAX_PAYABLE = MAX_AMOUNT // 2
"""Total of charges up to which an upstream's own count is believed."""

_decode_terms = msgspec.json.Decoder(tuple[ModelTerms, ...]).decode

_log = logs.get_logger(__name__)


def _validate_admission(admission: Admission) -> None:
    """Raises ValueError for an admission that the ledger's tables or the journal could not store."""
    if not (0 < len(admission.request_id) <= _MAX_REQUEST_ID_LENGTH and admission.request_id.isascii()):
        raise ValueError(
            f"{admission.request_id!r} is not a request id: 1 to {_MAX_REQUEST_ID_LENGTH} ASCII characters"
        )
    for tokens in (admission.prompt_tokens, admission.max_completion_tokens):
        if not 0 <= tokens <= MAX_TOKEN_COUNT:
            raise ValueError(f"{tokens} is not a number of tokens")


def find_violation(operation: LedgerOperation) -> ValueError | None:
    """Return why an operation is none, without reading the database."""
    try:
        if isinstance(operation, Settlement):
            _validate_settlement(operation)
        elif isinstance(operation, Admission):
            _validate_admission(operation)
    except ValueError as error:
        return error
    return None


def admit(batch: LedgerBatch, admission: Admission) -> Admitted:
    """Hold the maximum cost of the request, unless it is only a check. Raises core.errors."""
    if admission.key_digest is None:
        terms = [each._replace(most_charge=0) for each in _terms(batch, admission, admission.fallback_models)[0]]
        batch.add_hold(_hold(batch, admission, terms, account_id=None, key=None, amount=0))
        return Admitted(
            request_id=admission.request_id,
            account_id=None,
            key_id=None,
            hold=0,
            balance=None,
            fallback_models=admission.fallback_models,
        )
    key = _key(batch, admission.key_digest, admission.dialect)
    fallbacks = tuple(model for model in admission.fallback_models if key.models is None or model in key.models)
    terms, amount = _terms(batch, admission, fallbacks)
    if admission.is_check:
        amount = min(amount, 1)  # The smallest amount: a check refuses where nothing is left.
    account = _account(batch, key, admission.account)
    if amount and account.balance <= 0:
        raise _balance_too_low(account, amount)
    _check_requests(batch, key)
    if key.models is not None and admission.model not in key.models:
        raise ModelNotAllowed(admission.model)
    tokens = admission.prompt_tokens + admission.max_completion_tokens
    _check_tokens(batch, key, tokens)
    max_running = key.row.concurrent_requests
    may_wait = batch.process_id == QUEUE_PROCESS_ID or admission.is_check  # for a running request's end
    if max_running is not None and key.running >= max_running and not may_wait:
        raise TooManyRunning(limit=max_running, running=key.running, retry_after=1)
    if key.row.budget is not None and key.spent + key.held + amount > key.row.budget:
        raise BudgetExceeded(budget=key.row.budget, spent=key.spent, held=key.held, hold=amount)
    if amount > account.balance:
        raise _balance_too_low(account, amount)
    if not admission.is_check:
        batch.add_hold(_hold(batch, admission, terms, account_id=account.id, key=key, amount=amount))
        if key.window is not None:
            key.window.count(tokens)
    requests_left, tokens_left = _allowances(key)
    return Admitted(
        request_id=admission.request_id,
        account_id=account.id,
        key_id=key.row.id,
        hold=0 if admission.is_check else amount,
        balance=account.balance,
        requests=requests_left,
        tokens=tokens_left,
        fallback_models=fallbacks,
    )


def _validate_settlement(settlement: Settlement) -> None:
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
    necessary, since the tokens were delivered. An upstream that counted itself is believed beyond the maximum, for
    which its tokens were only estimated, as far as the balance goes: nothing bounds the answers of some.
    """
    terms = _terms_of(hold, settlement.fallback)
    cost = _cost(terms.price, settlement.prompt_tokens, settlement.cached_tokens, settlement.completion_tokens)
    charge = min(cost, terms.most_charge)
    if cost > charge and settlement.usage_source == "upstream" and _is_payable(batch, hold, cost):
        charge = max(charge, _covered(batch, hold, cost))
        _log.warning(
            "charged_beyond_estimate",
            request_id=hold.request_id,
            cost=cost,
            charge=charge,
            estimate=terms.most_charge,
        )
    usage_row = UsageRow(
        request_id=hold.request_id,
        account_id=hold.account_id,
        key_id=hold.key_id,
        price_id=terms.price.id,
        model=terms.model,
        dialect=hold.dialect,
        admitted_at=hold.admitted_at,
        settled_at=batch.now.wall,
        result=settlement.result,
        prompt_tokens=settlement.prompt_tokens,
        cached_tokens=settlement.cached_tokens,
        completion_tokens=settlement.completion_tokens,
        charge=charge,
        usage_source=settlement.usage_source,
        first_token_ms=settlement.first_token_ms,
        attempts=settlement.attempts,
    )
    batch.end_hold(hold, usage_row)
    return Settled(hold.request_id, charge, settlement.result)


def already_settled(usage_row: UsageRow) -> Settled:
    """Answer a repeated settlement with the first result."""
    # A constraint of the table limits the results to those of SettlementResult.
    return Settled(usage_row.request_id, usage_row.charge, usage_row.result, repeated=True)  # type: ignore[arg-type]


def look_up_key(batch: LedgerBatch, lookup: KeyLookup) -> KeyInfo:
    """Return the key's account and limits. Raises Unauthenticated, DialectNotAllowed or AccountNotAllowed.

    One that counts raises RequestRateLimited too.
    """
    key = _key(batch, lookup.key_digest, lookup.dialect)
    account = _account(batch, key, lookup.account)
    if lookup.counts and key.window is not None:
        _check_requests(batch, key)
        key.window.count(0)
        key.changed = True
    requests, tokens = _allowances(key)
    return KeyInfo(
        key_id=key.row.id,
        account_id=account.id,
        balance=account.balance,
        used=account.used,
        models=key.models,
        requests=requests,
        tokens=tokens,
    )


def _key(batch: LedgerBatch, digest: str, dialect: str | None) -> ApiKeyState:
    key = batch.keys_by_digest.get(digest)
    if key is None:
        raise KeyUnknown
    if key.row.disabled_at is not None:
        raise KeyDisabled(to_datetime(key.row.disabled_at))
    if key.row.expires_at is not None and key.row.expires_at <= batch.now.wall:
        raise KeyExpired(expired_at=to_datetime(key.row.expires_at), now=to_datetime(batch.now.wall))
    if key.dialects is not None and dialect is not None and dialect not in key.dialects:
        raise DialectNotAllowed(dialect)
    return key


def _account(batch: LedgerBatch, key: ApiKeyState, selected: str | None) -> AccountState:
    """Return the account that pays. Raises AccountNotAllowed if the key may not use the selected one."""
    if selected is None:
        return batch.accounts[key.row.account_id]
    for account_id, name in batch.selectable.get(key.row.id, ()):
        if selected in (name, str(account_id)):
            return batch.accounts[account_id]
    raise AccountNotAllowed(selected)


def _allowances(key: ApiKeyState) -> Allowances:
    return NO_LIMITS if key.window is None else key.limits.allowances(key.window)


def _balance_too_low(account: AccountState, hold: int) -> BalanceTooLow:
    return BalanceTooLow(account_id=account.id, balance=account.balance, used=account.used, hold=hold)


def _check_requests(batch: LedgerBatch, key: ApiKeyState) -> None:
    if key.window is not None and (excess := key.limits.request_excess(key.window)) > 0:
        raise key.limits.too_many_requests(key.window, batch.buckets(key), excess)


def _check_tokens(batch: LedgerBatch, key: ApiKeyState, tokens: int) -> None:
    if key.window is not None and (excess := key.limits.token_excess(key.window, tokens)) > 0:
        raise key.limits.too_many_tokens(key.window, batch.buckets(key), excess)


def _amounts(admission: Admission, price: PriceRow) -> tuple[int, int]:
    """Return the amount to hold and the maximum cost of the request. Raises InvalidAmount."""
    max_completion_tokens = admission.max_completion_tokens
    held = max_completion_tokens if admission.hold_cap is None else min(max_completion_tokens, admission.hold_cap)
    try:
        cost = _cost(price, admission.prompt_tokens, 0, max_completion_tokens)
        max_charge = check_amount(cost) if cost else 0
    except InvalidAmount as error:
        raise InvalidAmount(f"Request {admission.request_id}: {error}") from None
    return _cost(price, admission.prompt_tokens, 0, held), max_charge


def _terms(batch: LedgerBatch, admission: Admission, fallbacks: tuple[str, ...]) -> tuple[list[ModelTerms], int]:
    """Return the terms of the model and its fallbacks, and the amount to hold for any of them. Raises InvalidAmount."""
    own = batch.prices.get(admission.model) or batch.prices.get(admission.base_model or "")
    prices = [
        own or _free_price(admission.model),
        *(batch.prices.get(model) or _free_price(model) for model in fallbacks),
    ]
    amounts = [_amounts(admission, price) for price in prices]
    terms = [
        ModelTerms(model, price, most_charge)
        for model, price, (_, most_charge) in zip((admission.model, *fallbacks), prices, amounts, strict=True)
    ]
    return terms, max(amount for amount, _ in amounts)


def _terms_of(hold: HoldRow, fallback: int) -> ModelTerms:
    """Return the terms of the model that answered; of the requested one for a number that means none."""
    if hold.fallbacks is not None:
        terms = _decode_terms(hold.fallbacks)
        return terms[fallback if fallback < len(terms) else 0]
    price = PriceRow(
        id=hold.price_id,
        model=hold.model,
        prompt=hold.prompt_price,
        cached=hold.cached_price,
        completion=hold.completion_price,
    )
    return ModelTerms(hold.model, price, hold.most_charge)


def _covered(batch: LedgerBatch, hold: HoldRow, cost: int) -> int:
    """Return the part of the cost that the hold and its account's balance cover; without an account nobody pays."""
    if hold.account_id is None:
        return cost
    return min(cost, hold.amount + max(0, batch.accounts[hold.account_id].balance))


def _is_payable(batch: LedgerBatch, hold: HoldRow, cost: int) -> bool:
    """Whether the totals of account and key can hold the cost: an upstream may report any number."""
    totals = [] if hold.account_id is None else [batch.accounts[hold.account_id].charges]
    totals += [] if hold.key_id is None else [batch.keys[hold.key_id].spent]
    return all(total + cost <= MAX_PAYABLE for total in totals)


def _hold(
    batch: LedgerBatch,
    admission: Admission,
    terms: list[ModelTerms],
    *,
    account_id: int | None,
    key: ApiKeyState | None,
    amount: int,
) -> HoldRow:
    own = terms[0].price
    is_rate_limited = key is not None and key.window is not None
    return HoldRow(
        request_id=admission.request_id,
        process_id=batch.process_id,
        account_id=account_id,
        key_id=None if key is None else key.row.id,
        price_id=own.id,
        model=admission.model,
        dialect=admission.dialect,
        admitted_at=batch.now.wall,
        amount=amount,
        most_charge=max(each.most_charge for each in terms),
        prompt_price=own.prompt,
        cached_price=own.cached,
        completion_price=own.completion,
        counted_second=batch.now.second if is_rate_limited else None,
        counted_tokens=admission.prompt_tokens + admission.max_completion_tokens,
        fallbacks=None if len(terms) == 1 else msgspec.json.encode(terms).decode(),
    )


def _free_price(model: str) -> PriceRow:
    """Return the price of a model that has none: its tokens are free."""
    return PriceRow(id=None, model=model, prompt=0, cached=0, completion=0)


def _cost(price: PriceRow, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> int:
    """Compute the cost of the tokens. The cached tokens are a part of the prompt tokens."""
    computed = prompt_tokens - cached_tokens
    return computed * price.prompt + cached_tokens * price.cached + completion_tokens * price.completion
