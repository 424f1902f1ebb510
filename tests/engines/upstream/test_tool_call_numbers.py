"""The tool calls of upstreams, whose servers number and name them in several ways."""

import json
from typing import Any

import pytest

from dragoman.core.events import ToolCallDelta
from dragoman.engines.upstream.answer import UpstreamAnswer


def piece(arguments: object, name: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **fields}


def calls(*chunks: list[dict[str, Any]]) -> list[tuple[str | None, str | None, str]]:
    """Return id, name and arguments of each call, in the order of their numbers."""
    answer = UpstreamAnswer(n=1, prompt_tokens=5)
    found: dict[int, tuple[str | None, str | None, str]] = {}
    for pieces in chunks:
        data = json.dumps({"choices": [{"index": 0, "delta": {"content": None, "tool_calls": pieces}}]}).encode()
        for event in answer.feed([data]):
            if not isinstance(event, ToolCallDelta):
                continue
            is_first = event.call_index not in found
            assert is_first or (event.id, event.name) == (None, None), "only the first piece of a call is named"
            before = found.get(event.call_index, (event.id, event.name, ""))
            found[event.call_index] = (*before[:2], before[2] + event.arguments)
    assert sorted(found) == list(range(len(found)))
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize("index", [{"index": 0}, {"index": None}, {}])
@pytest.mark.parametrize("is_one_chunk", [True, False])
def test_whole_calls_of_one_index_or_without_any_are_calls_of_their_own(
    index: dict[str, Any], *, is_one_chunk: bool
) -> None:
    pieces = [
        piece('{"a": 1}', "f", id="x", **index),
        piece("{}", "f", id="y", **index),
        piece("{}", "g", id="z", **index),
    ]
    chunks = [pieces] if is_one_chunk else [[each] for each in pieces]
    assert calls(*chunks) == [("x", "f", '{"a": 1}'), ("y", "f", "{}"), ("z", "g", "{}")]


def test_calls_of_one_index_may_come_in_pieces() -> None:
    chunks = [
        [piece("", "f", id="x", index=0)],
        [piece('{"a":', index=0)],
        [piece("1}", index=0)],
        [piece("", "f", id="y", index=0)],
        [piece("{}", index=0)],
        [piece("", "g", id="z", index=0)],
        [piece("", "h", id="w", index=0)],
    ]
    assert calls(*chunks) == [("x", "f", '{"a":1}'), ("y", "f", "{}"), ("z", "g", ""), ("w", "h", "")]


def test_indices_with_gaps_become_numbers_without() -> None:
    chunks = [
        [piece("", "f", id="x", index=1), piece("", "g", id="y", index=3)],
        [piece("{", index=3), piece("[", index=1)],
        [piece("]", index=1), piece("}", index=3)],
    ]
    assert calls(*chunks) == [("x", "f", "[]"), ("y", "g", "{}")]


def test_a_name_and_an_id_that_come_with_every_piece_belong_to_one_call() -> None:
    chunks = [
        [piece('{"a":', "f", id="x", index=0)],
        [piece(' "b', "f", id="x2", index=0)],
        [piece('"}', None, id="x3", index=0)],
    ]
    assert calls(*chunks) == [("x", "f", '{"a": "b"}')]


@pytest.mark.parametrize("missing", [{}, {"id": None}, {"id": ""}])
def test_calls_without_ids_get_different_ones(missing: dict[str, Any]) -> None:
    (first, _, _), (second, name, arguments) = calls(
        [piece("{}", "f", index=0, **missing)], [piece("{}", "f", index=0, **missing)]
    )
    assert first
    assert second
    assert first != second
    assert (name, arguments) == ("f", "{}")


def test_arguments_may_be_an_object_and_a_function_may_be_missing() -> None:
    assert calls([piece({"a": [1]}, "f", id="x")], [{"index": 0, "function": None}]) == [("x", "f", '{"a":[1]}')]
