"""What batchers publish until they are done, and one over the simulated model."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dragoman.core.events import Delta, Finished, Usage
from dragoman.core.request import SamplingParams
from dragoman.engines.llama.adapters import NO_ADAPTER
from dragoman.engines.llama.adapting import AdaptingBackend
from dragoman.engines.llama.backend import SEQUENCE_IDS
from dragoman.engines.llama.batcher import Batcher, Outcome
from dragoman.engines.llama.sequence import Job, JobKey
from tests.support.simulated_backend import SimulatedBackend, SimulatedVocabulary, answer_alone

GREEDY = SamplingParams(temperature=0.0)
MOST_STEPS = 20_000


@dataclass
class Answer:
    """What a job has published so far."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    finished: dict[int, str] = field(default_factory=dict)
    usage: Usage | None = None


class Harness:
    """A batcher over the simulated model, and what it published by job."""

    def __init__(
        self,
        *,
        cells: int = 2048,
        parallel: int = 4,
        step_tokens: int = 32,
        saved_tokens: int = 512,
        reuses_cells: bool = True,
        apart: bool = False,
    ) -> None:
        """`apart`: what has an adapter is computed by a backend of its own."""
        self.backend = SimulatedBackend(cells, reuses_cells=reuses_cells)
        self._adapted = SimulatedBackend(cells, reuses_cells=reuses_cells) if apart else self.backend
        self.batcher = Batcher(
            AdaptingBackend(self.backend, lambda: self._adapted) if apart else self.backend,
            SimulatedVocabulary(),
            parallel=parallel,
            step_tokens=step_tokens,
            saved_tokens=saved_tokens,
        )
        self.answers: dict[JobKey, Answer] = {}

    def add(
        self,
        prompt: list[int],
        limit: int = 20,
        n: int = 1,
        priority: int = 0,
        adapter: int = NO_ADAPTER,
        begun: tuple[tuple[int, ...], ...] = (),
    ) -> JobKey:
        key = (0, len(self.answers))
        self.answers[key] = Answer()
        tokens = np.array(prompt, dtype=np.int32)
        job = Job(key, tokens, GREEDY, limit, priority=priority, adapter=adapter, begun=begun)
        self._take(self.batcher.add(job, n, seed=1))
        return key

    def load_adapters(self, count: int) -> list[int]:
        return [self.batcher.load_adapter(Path("unread.gguf"), 1.0) for _ in range(count)]

    def step(self) -> None:
        self._take(self.batcher.step())
        assert self.batcher.cache.ledger.used == self.used, "the ledger counts what the backends hold"

    def _take(self, outcomes: list[Outcome]) -> None:
        for key, event in outcomes:
            answer = self.answers[key]
            match event:
                case Delta(index, _, token_ids):
                    answer.tokens.setdefault(index, []).extend(token_ids)
                case Finished(index, reason):
                    answer.finished[index] = reason
                case Usage():
                    answer.usage = event

    def run(self) -> None:
        for _ in range(MOST_STEPS):
            if self.batcher.idle:
                return
            self.step()
        raise AssertionError("the batcher does not come to an end")

    @property
    def used(self) -> int:
        """Cells that are held."""
        return sum(backend.used for backend in {self.backend, self._adapted})

    @property
    def adapters(self) -> set[int]:
        """Adapters that are loaded."""
        return self._adapted.adapters

    @property
    def running(self) -> set[JobKey]:
        """Jobs with a choice that has a slot."""
        return {sequence.job.key for sequence in self.batcher.scheduler.running}

    def assert_nothing_leaked(self) -> None:
        assert not self.batcher.scheduler.running
        assert not self.batcher.scheduler.waiting
        self.batcher.cache.clear()
        assert self.batcher.cache.ledger.used == 0
        assert self.batcher.cache.ledger.spent == self.backend.spent
        assert self.batcher.cache.free_sequence_ids == SEQUENCE_IDS
        assert self.used == 0


def drained(batcher: Batcher, most_steps: int = MOST_STEPS) -> list[Outcome]:
    """What is published until all jobs have ended; then nothing is kept of them."""
    outcomes: list[Outcome] = []
    for _ in range(most_steps + 1):
        if batcher.idle:
            batcher.cache.clear()
            assert batcher.cache.ledger.used == 0
            return outcomes
        outcomes += batcher.step()
    raise AssertionError("the batcher does not come to an end")


def tokens_of_jobs(outcomes: Iterable[Outcome]) -> dict[JobKey, list[int]]:
    """What jobs of one choice each were answered."""
    tokens: dict[JobKey, list[int]] = {}
    for key, event in outcomes:
        if isinstance(event, Delta):
            tokens.setdefault(key, []).extend(event.token_ids)
    return tokens


def long_winded(count: int, length: int, adapter: int = NO_ADAPTER) -> list[list[int]]:
    """Prompts of 20 tokens that are answered with at least `length`."""
    candidates = ([first] * 20 for first in range(1, 64))
    return [prompt for prompt in candidates if len(answer_alone(prompt, length, adapter)) == length][:count]
