"""Dictionaries with a bounded number of keys, for what clients could make grow without end."""

from collections import OrderedDict
from typing import TypeVar

Value = TypeVar("Value")


def put_last(values: OrderedDict[str, Value], key: str, value: Value, limit: int) -> Value:
    """Put a value at the end and return it. With more than `limit` keys, drop the one that was put longest ago."""
    values[key] = value
    values.move_to_end(key)
    if len(values) > limit:
        values.popitem(last=False)
    return value
