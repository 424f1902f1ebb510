"""Host memory stays within its limit, whatever the segments in it are like."""

import weakref

import numpy as np
import pytest

from dragoman.engines.llama.batching.host_cache import HostKVCache, HostSegment, SharingScope

SCOPE = SharingScope(0, "owner", "")
CELL_BYTES, TOKEN_BYTES = 200, 4
LIMIT = 2000


def _segment(tokens: list[int], start: int) -> HostSegment:
    state = np.zeros(CELL_BYTES * (len(tokens) - start), dtype=np.uint8)
    return HostSegment(SCOPE, np.array(tokens, dtype=np.int32), start, state, 0)


@pytest.mark.parametrize("length", [20, 1000])
def test_many_short_continuations_of_one_prompt_take_no_more_memory_and_time_than_the_limit(length: int) -> None:
    cache = HostKVCache(LIMIT)
    prompt = list(range(length))
    cache.insert(_segment(prompt, 0))
    continuations: list[weakref.ref[HostSegment]] = []
    for last in range(LIMIT):
        segment = _segment([*prompt, last], length)
        continuations.append(weakref.ref(segment))
        cache.insert(segment)
        del segment
        assert cache.match(SCOPE, np.array(prompt, dtype=np.int32), 0)[-1].end == length
        cache.mark_used(cache.match(SCOPE, np.array(prompt, dtype=np.int32), 0)[0].segment)
    kept = [each for reference in continuations if (each := reference()) is not None]
    memory = sum(len(each.state) + each.tokens.nbytes for each in kept) + length * (CELL_BYTES + TOKEN_BYTES)
    assert memory <= LIMIT * (CELL_BYTES + TOKEN_BYTES)
    assert 10 < len(kept) <= LIMIT / 16
    assert cache.match(SCOPE, kept[-1].tokens, 0)[-1].end == length + 1


def test_a_whole_sequence_counts_as_its_tokens() -> None:
    cache = HostKVCache(LIMIT)
    cache.insert(_segment(list(range(LIMIT)), 0))
    assert cache.tokens == LIMIT
    cache.insert(_segment(list(range(LIMIT + 1)), 0))
    assert cache.tokens == LIMIT
