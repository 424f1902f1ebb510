from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.events import TokenLogprobs
from dragoman.engines.reports import ReportQueue


def reports(count: int) -> list[TokenLogprobs]:
    return [TokenLogprobs(token, b"", -1.0, []) for token in range(count)]


@given(st.lists(st.integers(0, 4), max_size=20), st.data())
def test_a_token_is_told_of_as_soon_as_it_is_shown_whole(lengths: list[int], data: st.DataObject) -> None:
    queue = ReportQueue()
    told: list[TokenLogprobs] = []
    added = shown = 0
    everything = reports(len(lengths))
    for number, length in enumerate(lengths):
        queue.add(everything[number], length)
        added += length
        showing = data.draw(st.integers(0, added - shown))
        shown += showing
        told += queue.release(showing) if showing else []
        whole = [n for n in range(number + 1) if sum(lengths[: n + 1]) <= shown]
        assert told == everything[: len(told)]
        assert len(told) <= len(whole)
        assert all(lengths[n] == 0 for n in whole[len(told) :]), "only what has no text waits for the next text"
    told += queue.release(added - shown)
    told += queue.finish()
    assert told == everything


def test_of_text_that_was_cut_off_only_the_token_shown_in_part_is_told() -> None:
    queue = ReportQueue()
    for report in reports(3):
        queue.add(report, 3)
    assert queue.release(4) == reports(3)[:1]
    assert queue.finish() == reports(3)[1:2]


def test_markup_is_never_told_of() -> None:
    queue = ReportQueue()
    shown, part, markup = reports(3)
    queue.add(shown, 2)
    queue.add(part, 3)
    assert queue.release(3) == [shown]
    queue.add(markup, 5)
    queue.drop_unshown()
    assert queue.release(1) == [part]
    assert queue.finish() == []
