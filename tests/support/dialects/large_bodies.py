"""Bodies of five megabytes for every route that takes one: each is as much work as its kind of JSON can be."""

import functools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from dragoman.dialects.http.operation import Operation
from dragoman.server.dialects import OPERATIONS
from dragoman.server.openapi import example_body

BODY_BYTES = 5 * 2**20
"""Half of what a server takes by default, in half the time: what delays others grows with it."""

_VALUE_BYTES = BODY_BYTES - 1024
"""The rest is room for the other fields."""


class LargeBody(NamedTuple):
    """A body and what it is large in."""

    label: str
    content: bytes


def body_routes() -> dict[str, Operation]:
    """Return one route of each kind that takes a body, by a label. Routes of one kind differ in their prefix only."""
    routes: dict[str, Operation] = {}
    for dialect, operations in OPERATIONS.items():
        for operation in operations:
            if operation.request is not None:
                kind = f"{dialect}-{operation.request.__name__}{'-queued' if operation.is_always_queued else ''}"
                routes.setdefault(kind, operation)
    return routes


def filled(start: str, item: str, end: str, separator: str = ",") -> bytes:
    """Return `start`, as many items as fit, and `end`."""
    count = (_VALUE_BYTES - len(start) - len(end)) // len(item + separator)
    return (start + separator.join([item] * count) + end).encode()


@functools.cache
def _values() -> dict[str, bytes]:
    """Return JSON values of about the full size, 100 megabytes together, which take half a second to write."""
    values = {
        kind: filled("[", item, "]")
        for kind, item in {
            "integers": "1",
            "whole floats": "1.0",
            "nulls": "null",
            "empty strings": '""',
            "empty objects": "{}",
            "empty arrays": "[]",
            "messages": '{"role":"user","content":""}',
            "strings": '"%s"' % ("a" * 250),
            "prompts": "[1]",
            "parts": '{"type":"text","text":"a"}',
            "tools": '{"type":"function","function":{"name":"f"}}',
        }.items()
    }
    values |= {
        "text": filled('"', "hello, [world] {}", '"', " "),
        "backslashes": filled('"', "\\\\", '"', ""),
        "quotation marks": filled('"', '\\"', '"', ""),
        "escapes": filled('"', "\\u00e9", '"', ""),
        "digits": filled("1", "9", "", ""),
        "nested arrays": b"[" * (_VALUE_BYTES // 2) + b"]" * (_VALUE_BYTES // 2),
        "nested objects": b'{"a":' * (_VALUE_BYTES // 6) + b"1" + b"}" * (_VALUE_BYTES // 6),
        "equal members": filled("{", '"1":1', "}"),
        "members": b"{%s}" % b",".join(b'"%d":1' % number for number in range(_VALUE_BYTES // 12)),
    }
    return values


def large_bodies(operation: Operation, first: int = 0, step: int = 0) -> Iterator[LargeBody]:
    """Yield bodies that are large in one field of the route each, in unknown fields, and in nothing at all.

    Every kind of value is yielded. With `step` 0 each field takes every one; otherwise it takes every step-th, from
    `first` on, and the next field starts one further on. Of many fields, those are left out that would take the same
    kinds again: other ones on each route, since the vendors' fields have much in common.
    """
    assert operation.request is not None
    example: dict[str, Any] = {} if operation.example is None else example_body(operation.example, "echo")
    values = list(_values().items())
    fields = [field.encode_name for field in msgspec.structs.fields(operation.request)]
    rounds = max(1, len(fields) // step) if step else 1
    fields = fields[first % rounds :: rounds]
    for number, field in enumerate([*fields, "unknown"]):
        chosen = values if not step else values[(first + number) % step :: step]
        rest = json.dumps({name: value for name, value in example.items() if name != field}).encode()
        for kind, value in chosen:
            separator = b"" if rest == b"{}" else b","
            yield LargeBody(f"{field}: {kind}", rest[:-1] + separator + b'"%s":%s}' % (field.encode(), value))
    yield LargeBody("spaces", b" " * _VALUE_BYTES)
    yield LargeBody("unknown fields", dict(values)["members"])
