"""The form of a key's limits: how they are shown, and read again."""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from dragoman.accounts.administration.keys import Key, KeyRules
from dragoman.accounts.times import to_milliseconds
from dragoman.core.money import format_amount, parse_amount
from dragoman.server.console.forms import Fields
from dragoman.server.console.rendering import format_minute
from dragoman.server.dialects import DIALECTS

_EMPTY_LIST = "none"
"""Stands for a list without a name, which allows nothing. An empty field is no list, which allows everything."""


def shown_rules(key: Key) -> Mapping[str, str]:
    """Return the limits of a key as the form shows them. Those that it does not have are left out."""
    rules = key.rules
    return {
        name: _shown(name, value) for name in KeyRules.__struct_fields__ if (value := getattr(rules, name)) is not None
    }


def read_rules(fields: Fields, key: Key | None = None) -> KeyRules:
    """Return the limits of a form; those that the form shows as they are stay exactly as they are.

    Raises ValueError for names that no request could have, and for wrong numbers and times.
    """
    dialects = _names(fields, "dialects")
    if unknown := [name for name in dialects or () if name not in DIALECTS]:
        raise ValueError(f"There is no dialect {unknown[0]}; there are {', '.join(DIALECTS)}")
    budget, expires_at = fields.text("budget"), fields.text("expires_at")
    shown = {} if key is None else shown_rules(key)
    kept = {name: getattr(key.rules, name) for name, text in shown.items() if key and fields.text(name) == text.strip()}
    rules = KeyRules(
        expires_at=None if expires_at is None else _milliseconds(expires_at),
        models=_names(fields, "models"),
        dialects=dialects,
        budget=None if budget is None else parse_amount(budget),
        requests_per_minute=fields.integer("requests_per_minute"),
        tokens_per_minute=fields.integer("tokens_per_minute"),
        concurrent_requests=fields.integer("concurrent_requests"),
    )
    return msgspec.structs.replace(rules, **kept)


def _shown(name: str, value: int | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or _EMPTY_LIST
    return {"expires_at": format_minute, "budget": format_amount}.get(name, str)(value)


def _names(fields: Fields, name: str) -> tuple[str, ...] | None:
    names = fields.names(name)
    return () if names == (_EMPTY_LIST,) else names


def _milliseconds(text: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("The end must be a date, or a date and a time in UTC") from None
    return to_milliseconds(at.replace(tzinfo=UTC) if at.tzinfo is None else at)
