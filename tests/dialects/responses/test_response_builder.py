"""Streams keep every rule of Open Responses and of OpenAI's reader, whatever the answer is."""

import itertools
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import EngineFailed
from dragoman.core.events import (
    Delta,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    ToolCallDelta,
    Unenforced,
    Usage,
)
from dragoman.dialects.http.sse import SseEvent
from dragoman.dialects.responses.codec import DecodedResponse, decode_response
from dragoman.dialects.responses.errors import ResponsesErrors
from dragoman.dialects.responses.json_strings import JsonStringReader
from tests.support.dialects.cases import build_response
from tests.support.dialects.decode_contexts import decode_context
from tests.support.dialects.response_reader import StreamReader, check_response, read_events

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "read", "parameters": {"type": "object"}},
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "mcp__hub__", "tools": [{"type": "function", "name": "search"}]},
]
TEXT = st.text(st.characters(codec="utf-8"), max_size=6)


def decode(**fields: Any) -> DecodedResponse:
    body = {"model": "m", "input": "Hi", "tools": TOOLS, "reasoning": {"effort": "low"}, **fields}
    return decode_response(json.dumps(body).encode(), decode_context())


def arguments_of(name: str, text: str) -> str:
    return json.dumps({"input": text} if name == "patch" else {"city": text}, ensure_ascii=False)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Draw the events of one choice, in any order of kinds, as several families of models have them."""
    events: list[Event] = [Started(3, 1)] if draw(st.booleans()) else []
    if draw(st.booleans()):
        events.append(Unenforced(0, ["'contains' at #"]))
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["text", "reasoning", "call"]), max_size=6)):
        pieces = draw(st.lists(TEXT, min_size=1, max_size=3))
        if kind == "text":
            events += [Delta(0, piece, [1]) for piece in pieces]
        elif kind == "reasoning":
            events += [ReasoningDelta(0, piece, [1]) for piece in pieces]
        else:
            name = draw(st.sampled_from(["read", "patch", "mcp__hub__search", "unknown"]))
            arguments = arguments_of(name, "".join(pieces))
            cut = draw(st.integers(0, len(arguments)))
            first, rest = arguments[:cut], arguments[cut:]
            call_id = f"call_{calls}"
            events.append(ToolCallDelta(index=0, call_index=calls, arguments=first, id=call_id, name=name))
            events.append(ToolCallDelta(index=0, call_index=calls, arguments=rest))
            calls += 1
    return [*events, Finished(0, draw(st.sampled_from(get_args(FinishReason)))), Usage(5, 4, 1, 2)]


def stream(decoded: DecodedResponse, events: list[Event]) -> list[SseEvent]:
    sent = [each for event in events for each in decoded.builder.feed(event)]
    return [*sent, *decoded.builder.terminator()]


@given(events=answers(), background=st.booleans())
def test_every_stream_keeps_the_rules_and_ends_with_the_whole_response(events: list[Event], background: bool) -> None:
    decoded = decode(background=background)
    response = read_events(stream(decoded, events))
    whole = json.loads(decoded.builder.build())
    assert response == whole == build_response(decode(background=background).builder, events)
    assert whole["output"], "an answer is never empty"
    texts = "".join(event.text for event in events if isinstance(event, Delta))
    assert (
        "".join(part["text"] for item in whole["output"] if item["type"] == "message" for part in item["content"])
        == texts
    )


@given(events=answers(), cut=st.integers(0, 12))
def test_a_stream_that_fails_reports_the_error_and_ends_with_the_failed_response(events: list[Event], cut: int) -> None:
    builder = decode().builder
    reader = StreamReader()
    error = ResponsesErrors().render_event(EngineFailed("secret"))
    for event in events[: min(cut, len(events) - 1)]:
        for sent in builder.feed(event):
            reader.feed(sent)
    for sent in builder.failure(error):
        reader.feed(sent)
    assert reader.done
    assert reader.response is not None
    assert (reader.response["status"], reader.response["error"]["code"]) == ("failed", "server_error")
    assert "secret" not in json.dumps(reader.response)


def test_a_call_of_a_namespace_has_its_bare_name_and_a_custom_call_its_input() -> None:
    events: list[Event] = [
        ToolCallDelta(index=0, call_index=0, arguments="{}", id="call_a", name="mcp__hub__search"),
        ToolCallDelta(index=0, call_index=1, arguments='{"input": "a\\n\\"b', id="call_b", name="patch"),
        ToolCallDelta(index=0, call_index=1, arguments='\\""}'),
        Finished(0, "tool_calls"),
        Usage(1, 1, 0),
    ]
    search, patch = read_events(stream(decode(), events))["output"]
    assert (search["name"], search["namespace"], search["call_id"]) == ("search", "mcp__hub__", "call_a")
    assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "patch", 'a\n"b"')


def test_a_queued_response_is_announced_before_it_runs() -> None:
    builder = decode(background=True).response
    kinds = [event.name for event in builder.begin()]
    assert kinds == ["response.created", "response.queued"]
    assert [event.name for event in builder.feed(Started(1, 0))] == ["response.in_progress"]


@pytest.mark.parametrize(("end", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_was_cut_off_is_incomplete_and_so_is_its_last_item(end: FinishReason, reason: str) -> None:
    events: list[Event] = [ReasoningDelta(0, "Hm", [1]), Delta(0, "Hel", [2]), Finished(0, end), Usage(1, 2, 0)]
    response = read_events(stream(decode(), events))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert response["output"][-1]["status"] == "incomplete"


@given(
    text=st.text(st.characters(codec="utf-8")), cuts=st.lists(st.integers(0, 80), max_size=5), ascii_only=st.booleans()
)
def test_an_input_is_read_from_its_json_piece_by_piece(text: str, cuts: list[int], ascii_only: bool) -> None:
    document = json.dumps({"input": text}, ensure_ascii=ascii_only)
    edges = [0, *sorted(min(cut, len(document)) for cut in cuts), len(document)]
    reader = JsonStringReader()
    pieces = [document[first:last] for first, last in itertools.pairwise(edges)]
    assert "".join(map(reader.feed, pieces)) == text


def test_every_response_that_begins_has_all_members() -> None:
    check_response(json.loads(next(iter(decode().response.begin())).data)["response"])
