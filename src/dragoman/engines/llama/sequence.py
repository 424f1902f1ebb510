"""One choice of one request on its way through the engine."""

import numpy as np

from dragoman.core.request import SamplingParams
from dragoman.engines.choice import Choice
from dragoman.engines.llama.adapters import NO_ADAPTER
from dragoman.engines.llama.cells import NO_CELLS, Cells
from dragoman.engines.llama.model import TokenArray
from dragoman.engines.llama.sampler import Sampler

JobKey = tuple[int, int]
"""A job's name: the worker's connection and its number there."""


class Job:
    """One request: its prompt, computed once, and its choices."""

    def __init__(
        self,
        key: JobKey,
        prompt: TokenArray,
        sampling: SamplingParams,
        limit: int,
        *,
        priority: int = 0,
        echo: str = "",
        adapter: int = NO_ADAPTER,
    ) -> None:
        """`limit` is the effective max_tokens of every choice.

        `echo` is text that every choice begins with.
        """
        self.key = key
        self.prompt = prompt
        self.sampling = sampling
        self.limit = limit
        self.priority = priority
        self.echo = echo
        self.adapter = adapter
        self.completion_tokens = 0
        self.cached_tokens: int | None = None
        """Prompt tokens shared rather than computed, as the first choice found them; None before it began."""


class Sequence:
    """Tokens known, tokens computed, and where the computed ones lie."""

    def __init__(self, job: Job, index: int, arrival: int, sampler: Sampler, choice: Choice) -> None:
        self.job = job
        self.index = index
        self.arrival = arrival
        self.sampler = sampler
        self.choice = choice
        self._tokens = np.empty(len(job.prompt) + job.limit, dtype=np.int32)
        self._tokens[: len(job.prompt)] = job.prompt
        self.length = len(job.prompt)
        """Tokens known: the prompt and those generated."""
        self.sequence_id: int | None = None
        """llama.cpp's number while the sequence holds cells."""
        self.cells: Cells = NO_CELLS
        """One for each computed token and each token of the step under way."""
        self.computed = 0
        """Tokens whose cells are filled; only these can be shared."""

    @property
    def adapter(self) -> int:
        """What it is computed with."""
        return self.job.adapter

    @property
    def tokens(self) -> TokenArray:
        """All tokens known."""
        return self._tokens[: self.length]

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return self.length - self.computed

    @property
    def generated(self) -> int:
        """Tokens sampled so far."""
        return self.length - len(self.job.prompt)

    @property
    def order(self) -> tuple[int, int, int]:
        """Lower goes first, wherever sequences compete."""
        return (self.job.priority, self.arrival, self.index)

    def append(self, token: int) -> None:
        """Add a sampled token."""
        self._tokens[self.length] = token
        self.length += 1
