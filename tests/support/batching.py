"""Batchers with the simulated model, and their output."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from dragoman.core.events import AnyDelta, ChoiceEvent, Delta, Event, Finished, ToolCallDelta, Usage
from dragoman.core.request import SamplingParams
from dragoman.engines.llama.batching.batcher import Batcher, RequestOutput
from dragoman.engines.llama.batching.host_cache import SegmentSaver
from dragoman.engines.llama.batching.sequence import EngineRequest, RequestKey
from dragoman.engines.llama.batching.speculation import MAX_DRAFT_TOKENS
from dragoman.engines.llama.native.backend import NO_ADAPTER, OWN_SEQUENCE_IDS, SEQUENCE_IDS, SPARE_SEQUENCE_IDS
from dragoman.engines.llama.native.llama_backend import LoraFallbackBackend
from tests.support.simulated_backend import (
    ALL_TOKENS,
    SimulatedBackend,
    SimulatedVocabulary,
    next_token,
    reference_answer,
)

GREEDY = SamplingParams(temperature=0.0)
MAX_STEPS = 20_000


@dataclass
class PublishedAnswer:
    """The output of a request so far."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    finished: dict[int, str] = field(default_factory=dict)
    usage: Usage | None = None


class BatcherHarness:
    """A batcher with the simulated model, and its output by request."""

    def __init__(
        self,
        *,
        cells: int = 2048,
        max_sequences: int = 4,
        max_batched_tokens: int = 32,
        host_cache_tokens: int = 512,
        reuses_cells: bool = True,
        separate_lora_backend: bool = False,
        divisible_tokens: int = ALL_TOKENS,
        model: Callable[[Iterable[int]], int] = next_token,
        max_draft_tokens: int = MAX_DRAFT_TOKENS,
        saver: SegmentSaver | None = None,
        partitions: int = 1,
        step_cells: int = 0,
    ) -> None:
        """`separate_lora_backend`: another backend computes sequences with an adapter.

        `divisible_tokens`: one less than the sliding window; 0 stands for a recurrent state.
        """
        self.backend = SimulatedBackend(
            cells,
            reuses_cells=reuses_cells,
            model=model,
            divisible_tokens=divisible_tokens,
            sequence_ids=SEQUENCE_IDS if divisible_tokens else max_sequences + SPARE_SEQUENCE_IDS - OWN_SEQUENCE_IDS,
            partitions=partitions,
            step_cells=step_cells,
        )
        self._fallback = (
            SimulatedBackend(cells, reuses_cells=reuses_cells, model=model) if separate_lora_backend else self.backend
        )
        self.batcher = Batcher(
            LoraFallbackBackend(self.backend, lambda: self._fallback) if separate_lora_backend else self.backend,
            SimulatedVocabulary(),
            max_sequences=max_sequences,
            max_batched_tokens=max_batched_tokens,
            host_cache_tokens=host_cache_tokens,
            max_draft_tokens=max_draft_tokens,
            saver=saver,
            clock=lambda: 0.0,
        )
        self.answers: dict[RequestKey, PublishedAnswer] = {}

    def add(
        self,
        prompt: list[int],
        limit: int = 20,
        *,
        n: int = 1,
        priority: int = 0,
        adapter: int = NO_ADAPTER,
        resume_token_ids: tuple[tuple[int, ...], ...] = (),
        owner: str = "",
        cache_salt: str = "",
        public_tokens: int = 0,
        sampling: SamplingParams = GREEDY,
        seed: int = 1,
        number: int | None = None,
    ) -> RequestKey:
        key = (0, len(self.answers) if number is None else number)
        self.answers[key] = PublishedAnswer()
        tokens = np.array(prompt, dtype=np.int32)
        request = EngineRequest(
            key,
            tokens,
            sampling,
            limit,
            priority=priority,
            adapter=adapter,
            resume_token_ids=resume_token_ids,
            owner=owner,
            cache_salt=cache_salt,
            public_tokens=public_tokens,
        )
        self._collect(self.batcher.add(request, n, seed))
        return key

    def load_adapters(self, count: int) -> list[int]:
        return [self.batcher.load_adapter(Path("unread.gguf"), 1.0) for _ in range(count)]

    def step(self) -> None:
        self._collect(self.batcher.step())
        used, partitions = self.batcher.cache.allocator.used, range(self.backend.partitions)
        if len(partitions) == 1:
            assert used == self.used_cells, "the allocator counts what the backends hold"
        else:
            in_each = [self.backend.used_in_partition(number) for number in partitions]
            used -= self.used_cells - sum(in_each)
            assert max(in_each) <= used <= sum(in_each), "a partition holds each cell that the allocator counts once"

    def _collect(self, outputs: list[RequestOutput]) -> None:
        for key, event in outputs:
            answer = self.answers[key]
            match event:
                case Delta(index, _, token_ids):
                    answer.tokens.setdefault(index, []).extend(token_ids)
                case Finished(index, reason):
                    answer.finished[index] = reason
                case Usage():
                    answer.usage = event

    def run(self) -> None:
        for _ in range(MAX_STEPS):
            if self.batcher.is_idle:
                return
            self.step()
        raise AssertionError("the batcher does not become idle")

    @property
    def used_cells(self) -> int:
        """Number of cells in use."""
        return sum(backend.used_cells for backend in {self.backend, self._fallback})

    @property
    def adapters(self) -> set[int]:
        """The loaded adapters."""
        return self._fallback.adapters

    @property
    def running(self) -> set[RequestKey]:
        """The requests with a running choice."""
        return {sequence.request.key for sequence in self.batcher.scheduler.running}

    def assert_nothing_leaked(self) -> None:
        assert not self.batcher.scheduler.running
        assert not self.batcher.scheduler.waiting
        self.batcher.cache.clear()
        assert self.batcher.cache.allocator.used == 0
        assert self.batcher.cache.allocator.spent == self.backend.spent
        assert self.batcher.cache.free_sequence_ids == self.backend.sequence_ids
        assert self.used_cells == 0


def run_until_idle(batcher: Batcher, max_steps: int = MAX_STEPS) -> list[RequestOutput]:
    """Step until all requests have ended, clear the cache, and return the output."""
    outputs: list[RequestOutput] = []
    for _ in range(max_steps + 1):
        if batcher.is_idle:
            batcher.cache.clear()
            assert batcher.cache.allocator.used == 0
            return outputs
        outputs += batcher.step()
    raise AssertionError("the batcher does not become idle")


def tokens_by_request(outputs: Iterable[RequestOutput]) -> dict[RequestKey, list[int]]:
    """Return the tokens of requests with one choice each."""
    tokens: dict[RequestKey, list[int]] = {}
    for key, event in outputs:
        if isinstance(event, Delta):
            tokens.setdefault(key, []).extend(event.token_ids)
    return tokens


def prompts_with_long_answers(count: int, length: int, adapter: int = NO_ADAPTER) -> list[list[int]]:
    """Return prompts of 20 tokens with answers of at least `length` tokens."""
    candidates = ([first] * 20 for first in range(1, 64))
    return [prompt for prompt in candidates if len(reference_answer(prompt, length, adapter)) == length][:count]


def events_of_choice(events: Sequence[Event], index: int) -> list[Event]:
    """Return the events of one choice, without the random ids of its tool calls."""
    of_choice = [event for event in events if isinstance(event, ChoiceEvent) and event.index == index]
    return [
        msgspec.structs.replace(event, id="random") if isinstance(event, ToolCallDelta) and event.id else event
        for event in of_choice
    ]


def tokens_of_choice(events: Sequence[Event], index: int) -> tuple[int, ...]:
    """Return all tokens of one choice."""
    deltas = [event for event in events_of_choice(events, index) if isinstance(event, AnyDelta)]
    return tuple(token for delta in deltas for token in delta.token_ids)
