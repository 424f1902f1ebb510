from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.events import TokenLogprobs
from dragoman.output.processor import PendingLogprobs


def reports(count: int) -> list[TokenLogprobs]:
    return [TokenLogprobs(token, b"", -1.0, []) for token in range(count)]


@given(st.lists(st.integers(0, 4), max_size=20), st.data())
def test_logprobs_are_released_once_their_token_is_shown_whole(lengths: list[int], data: st.DataObject) -> None:
    queue = PendingLogprobs()
    released: list[TokenLogprobs] = []
    added = shown = 0
    everything = reports(len(lengths))
    for number, length in enumerate(lengths):
        queue.add(everything[number], length)
        added += length
        showing = data.draw(st.integers(0, added - shown))
        shown += showing
        released += queue.release(showing) if showing else []
        whole = [n for n in range(number + 1) if sum(lengths[: n + 1]) <= shown]
        assert released == everything[: len(released)]
        assert len(released) <= len(whole)
        assert all(lengths[n] == 0 for n in whole[len(released) :]), "only what has no text waits for the next text"
    released += queue.release(added - shown)
    released += queue.finish()
    assert released == everything


def test_of_text_cut_off_only_the_partly_shown_token_is_reported() -> None:
    queue = PendingLogprobs()
    for report in reports(3):
        queue.add(report, 3)
    assert queue.release(4) == reports(3)[:1]
    assert queue.finish() == reports(3)[1:2]


def test_logprobs_of_markup_are_never_reported() -> None:
    queue = PendingLogprobs()
    shown, part, markup = reports(3)
    queue.add(shown, 2)
    queue.add(part, 3)
    assert queue.release(3) == [shown]
    queue.add(markup, 5)
    queue.drop_unshown()
    assert queue.release(1) == [part]
    assert queue.finish() == []
