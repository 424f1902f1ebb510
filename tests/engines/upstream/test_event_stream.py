import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.engines.upstream.event_stream import EventStreamParser, ReceivedEvent
from dragoman.engines.upstream.transport_errors import BrokenResponse


def parsed(*chunks: bytes, limit: int = 1_000) -> list[ReceivedEvent]:
    parser = EventStreamParser(limit)
    return [event for chunk in chunks for event in parser.feed(chunk)] + parser.finish()


lines = st.binary(max_size=20).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b""))


@given(
    events=st.lists(st.tuples(st.lists(lines, min_size=1, max_size=3), lines | st.just(b"")), max_size=5),
    line_end=st.sampled_from([b"\n", b"\r\n"]),
    has_comments=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
@settings(max_examples=200)
def test_events_are_the_same_however_their_bytes_are_cut(
    events: list[tuple[list[bytes], bytes]], line_end: bytes, has_comments: bool, cuts: list[int]
) -> None:
    stream = b""
    for data, name in events:
        stream += b": comment" + line_end if has_comments else b""
        stream += b"event: " + name + line_end if name else b""
        stream += b"".join(b"data: " + line + line_end for line in data) + line_end
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert parsed(*chunks) == [ReceivedEvent(b"\n".join(data), name) for data, name in events]


def test_one_space_after_the_colon_belongs_to_no_value() -> None:
    assert parsed(b"data:a\n\ndata:  b\n\ndata\n\n") == [
        ReceivedEvent(b"a"),
        ReceivedEvent(b" b"),
        ReceivedEvent(b""),
    ]


def test_comments_unknown_fields_and_a_byte_order_mark_are_skipped() -> None:
    assert parsed(b"\xef\xbb\xbfdata: a\nid: 1\nretry: 5\nother: x\n\n: ping\n\n") == [ReceivedEvent(b"a")]


def test_a_name_without_data_is_no_event_and_names_no_other() -> None:
    assert parsed(b"event: ping\n\ndata: a\n\n") == [ReceivedEvent(b"a")]


def test_the_end_of_the_stream_completes_the_last_event() -> None:
    assert parsed(b"data: a\n\ndata: [DONE]") == [ReceivedEvent(b"a"), ReceivedEvent(b"[DONE]")]


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: " + b"x" * 101],
        [b"data: " + b"x" * 60 + b"\n", b"data: " + b"x" * 60 + b"\n"],
        [b"data: " + b"x" * 60 + b"\ndata: " + b"x" * 60 + b"\n\n"],
        [b"x" * 50, b"x" * 51],
        [b"data:\n" * 101],
    ],
    ids=["line", "lines", "whole", "no lines", "empty lines"],
)
def test_an_event_that_is_too_large_is_refused_before_it_is_complete(chunks: list[bytes]) -> None:
    with pytest.raises(BrokenResponse, match="more than 100 bytes"):
        parsed(*chunks, limit=100)


def test_many_small_events_in_one_chunk_are_not_too_large() -> None:
    assert len(parsed(b"data: x\n\n" * 1_000, limit=100)) == 1_000


def test_comments_without_end_take_no_memory() -> None:
    assert parsed(*[b": keep-alive\n"] * 1_000, limit=100) == []
