"""Conversion between the accounts' structs and the bodies of the admin API."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from dragoman.accounts.administration.accounts import Account, Deposit
from dragoman.accounts.administration.audit_log import AuditEntry
from dragoman.accounts.administration.keys import Key, KeyRules
from dragoman.accounts.administration.prices import Price
from dragoman.accounts.administration.usage import DailyUsage, UsageRecord
from dragoman.accounts.times import from_day_number, to_datetime, to_milliseconds
from dragoman.core.money import format_amount, format_price_per_million, parse_amount
from dragoman.gateway.routing.catalog import Deployment
from dragoman.server.admin import wire


class _HasId(Protocol):
    @property
    def id(self) -> int: ...


Row = TypeVar("Row", bound=_HasId)


def next_page(rows: Sequence[Row], limit: int) -> int | None:
    """Return the cursor of the next page, or None after a page that is not full."""
    return rows[-1].id if len(rows) == limit else None


def model_state_body(deployment: Deployment) -> wire.ModelStateBody:
    tool_format = deployment.tool_format
    return wire.ModelStateBody(
        model=deployment.name,
        ready=deployment.ready,
        failure=deployment.failure,
        tool_format=tool_format,
        supports_reasoning=None if tool_format is None else deployment.supports_reasoning,
    )


def account_body(account: Account) -> wire.AccountBody:
    return wire.AccountBody(
        id=account.id,
        name=account.name,
        currency=account.currency,
        created_at=to_datetime(account.created_at),
        deposits=format_amount(account.deposits),
        balance=format_amount(account.balance),
        holds=format_amount(account.holds),
        charges=format_amount(account.charges),
    )


def deposit_body(deposit: Deposit) -> wire.DepositBody:
    return wire.DepositBody(
        id=deposit.id,
        account=deposit.account_id,
        at=to_datetime(deposit.at),
        amount=format_amount(deposit.amount),
        reference=deposit.reference,
        note=deposit.note,
    )


def key_body(key: Key) -> wire.KeyBody:
    rules = key.rules
    return wire.KeyBody(
        id=key.id,
        ending=key.ending,
        label=key.label,
        account=key.account_id,
        accounts=key.account_ids,
        expires_at=_convert_optional(to_datetime, rules.expires_at),
        models=rules.models,
        dialects=rules.dialects,
        budget=_convert_optional(format_amount, rules.budget),
        requests_per_minute=rules.requests_per_minute,
        tokens_per_minute=rules.tokens_per_minute,
        concurrent_requests=rules.concurrent_requests,
        created_at=to_datetime(key.created_at),
        disabled_at=_convert_optional(to_datetime, key.disabled_at),
        spent=format_amount(key.spent),
        held=format_amount(key.held),
        running=key.running,
    )


def new_key_body(key: Key, secret: str) -> wire.CreatedKeyBody:
    return wire.CreatedKeyBody(secret=secret, **msgspec.structs.asdict(key_body(key)))


def new_rules(body: wire.NewKeyRequest) -> KeyRules:
    """Return the rules of a new key. Raises InvalidAmount."""
    return _apply(KeyRules(), body)


def changed_rules(rules: KeyRules, patch: wire.KeyPatch) -> KeyRules:
    """Return the rules after a change. Raises InvalidAmount."""
    return _apply(rules, patch)


def price_body(price: Price) -> wire.PriceBody:
    return wire.PriceBody(
        id=price.id,
        model=price.model,
        prompt=format_price_per_million(price.prompt),
        cached=format_price_per_million(price.cached),
        completion=format_price_per_million(price.completion),
        valid_from=to_datetime(price.valid_from),
        created_at=to_datetime(price.created_at),
    )


def usage_body(used: UsageRecord) -> wire.UsageRecordBody:
    return wire.UsageRecordBody(
        id=used.id,
        request_id=used.request_id,
        account=used.account_id,
        key=used.key_id,
        price=used.price_id,
        model=used.model,
        dialect=used.dialect,
        admitted_at=to_datetime(used.admitted_at),
        settled_at=to_datetime(used.settled_at),
        result=used.result,
        prompt_tokens=used.prompt_tokens,
        cached_tokens=used.cached_tokens,
        completion_tokens=used.completion_tokens,
        charge=format_amount(used.charge),
        usage_source=used.usage_source,
    )


def daily_usage_body(day: DailyUsage) -> wire.DailyUsageBody:
    return wire.DailyUsageBody(
        day=from_day_number(day.day),
        account=day.account_id,
        key=day.key_id,
        model=day.model,
        requests=day.requests,
        prompt_tokens=day.prompt_tokens,
        cached_tokens=day.cached_tokens,
        completion_tokens=day.completion_tokens,
        charge=format_amount(day.charge),
    )


def change_body(change: AuditEntry) -> wire.ChangeBody:
    return wire.ChangeBody(
        id=change.id,
        at=to_datetime(change.at),
        actor=change.actor,
        action=change.action,
        subject=change.subject,
        details=change.details,
    )


_Value = TypeVar("_Value")
_Converted = TypeVar("_Converted")


def _convert_optional(convert: Callable[[_Value], _Converted], value: _Value | None) -> _Converted | None:
    return None if value is None else convert(value)


def _apply(rules: KeyRules, body: wire.NewKeyRequest | wire.KeyPatch) -> KeyRules:
    given = {name: getattr(body, name) for name in KeyRules.__struct_fields__}
    given = {name: value for name, value in given.items() if value is not msgspec.UNSET}
    for name, parse in (("expires_at", to_milliseconds), ("budget", parse_amount)):
        if given.get(name) is not None:
            given[name] = parse(given[name])
    return msgspec.structs.replace(rules, **given)
