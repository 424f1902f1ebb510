"""Logits from which no token can be sampled, with the simulated model."""

from collections.abc import Sequence

import numpy as np

from dragoman.core.errors import EngineFailed
from dragoman.core.events import Usage
from dragoman.core.request import SamplingParams
from dragoman.engines.llama.arrays import Logits
from dragoman.engines.llama.batching.batcher import Batcher
from dragoman.engines.llama.batching.sequence import EngineRequest
from dragoman.engines.llama.native.backend import NO_ADAPTER, Chunk
from tests.support.batching import run_until_idle
from tests.support.simulated_backend import SimulatedBackend, SimulatedVocabulary

_HARMFUL = 7


class SpoiledBackend(SimulatedBackend):
    """Computes an infinite logit after the harmful token."""

    def decode(self, chunks: Sequence[Chunk], adapter: int = NO_ADAPTER) -> Logits:
        logits = super().decode(chunks, adapter)
        last = np.cumsum([chunk.outputs for chunk in chunks]) - 1
        for chunk, row in zip(chunks, last, strict=True):
            if chunk.outputs and chunk.tokens[-1] == _HARMFUL:
                logits[row, 5] = np.inf
        return logits


def test_an_infinite_logit_ends_its_own_request_only() -> None:
    batcher = Batcher(
        SpoiledBackend(256), SimulatedVocabulary(), max_sequences=4, max_batched_tokens=64, host_cache_tokens=0
    )
    sampling = SamplingParams(top_p=0.5, ignore_eos=True)
    for number, prompt in enumerate(([1, 2, 3], [1, 2, _HARMFUL])):
        batcher.add(EngineRequest((0, number), np.array(prompt, dtype=np.int32), sampling, 1), 1, 1)
    ended = {key: event for key, event in run_until_idle(batcher) if isinstance(event, Usage | EngineFailed)}
    assert isinstance(ended[0, 0], Usage)
    assert isinstance(ended[0, 1], EngineFailed)
    assert "no numbers" in ended[0, 1].message
