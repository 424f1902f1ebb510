"""One choice of one request on its way through the engine."""

from collections.abc import Collection

import numpy as np

from dragoman.core.events import TokenLogprobs
from dragoman.core.request import QUEUED, SamplingParams
from dragoman.engines.choice import OutputProcessor
from dragoman.engines.constraint import GrammarConstraint
from dragoman.engines.llama.adapters import NO_ADAPTER
from dragoman.engines.llama.answer_reading import PLAIN, AnswerReading
from dragoman.engines.llama.cells import NO_CELLS, Cells
from dragoman.engines.llama.model import TokenArray
from dragoman.engines.llama.sampler import Sampler

FORCED_AT_ONCE = 16
"""Tokens that are known without sampling and computed beside other sequences' single ones."""

_REPORTED_AT_ONCE = 64
"""Prompt tokens of which a step gives logits: a row of a large vocabulary takes half a megabyte."""

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
        logprobs: int | None = None,
        constraint: GrammarConstraint | None = None,
        reading: AnswerReading = PLAIN,
        adapter: int = NO_ADAPTER,
        begun: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        """`limit` is the effective max_tokens of every choice.

        `echo` is text that every choice begins with. `logprobs`: tell so many of the likeliest tokens at every place;
        None: tell of none. `constraint` binds every choice, from its beginning on. `begun` are the tokens of each
        choice that an earlier attempt generated; empty: none did.
        """
        self.key = key
        self.prompt = prompt
        self.sampling = sampling
        self.limit = limit
        self.priority = priority
        self.echo = echo
        self.logprobs = logprobs
        self.constraint = constraint
        self.reading = reading
        self.adapter = adapter
        self.begun = begun
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self.cached_tokens: int | None = None
        """Prompt tokens shared rather than computed, as the first choice found them; None before it began."""

    def yields_to(self, other: "Job") -> bool:
        """Whether it gives up slots and cells for the other one: it is queued, and somebody waits for that."""
        return self.priority >= QUEUED > other.priority


class Sequence:
    """Tokens known, tokens computed, and where the computed ones lie."""

    def __init__(self, job: Job, index: int, arrival: int, sampler: Sampler, choice: OutputProcessor) -> None:
        self.job = job
        self.begun = job.begun[index] if job.begun else ()
        self.index = index
        self.arrival = arrival
        self.sampler = sampler
        self.choice = choice
        # Only a token that is sampled comes with logits to tell of.
        self.constraint = job.constraint.copy(fast_forward=job.logprobs is None) if job.constraint else None
        self.prompt_reports: list[TokenLogprobs] = []
        """Of the prompt's tokens, as far as it is computed, if they are to be told."""
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
    def has_slot(self) -> bool:
        """Whether it is running, however little of it is computed."""
        return self.sequence_id is not None

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

    @property
    def is_decoding(self) -> bool:
        """Whether its prompt is computed and what is pending may go into a step of decoding."""
        return self.pending == 1 or (self.computed >= len(self.job.prompt) and self.pending <= FORCED_AT_ONCE)

    @property
    def tells_prompt(self) -> bool:
        """Whether the prompt's log-probabilities are still to be told, so that all of it must be computed."""
        return bool(self.job.echo) and self.job.logprobs is not None and not self.generated

    @property
    def shareable(self) -> TokenArray:
        """The tokens whose cells may be another sequence's."""
        return self.tokens[:0] if self.tells_prompt else self.tokens

    @property
    def most_at_once(self) -> int:
        """Tokens of it that one step may compute."""
        return _REPORTED_AT_ONCE if self.tells_prompt else self.length

    @property
    def bound(self) -> GrammarConstraint | None:
        """The grammar that the next token must follow. A thought is free."""
        return None if self.choice.in_reasoning else self.constraint

    @property
    def ends_are_barred(self) -> bool:
        """Whether the choice must not end yet: it has too few tokens, or thinks of an answer that a grammar binds."""
        return self.choice.ends_are_barred or (self.choice.in_reasoning and self.constraint is not None)

    def forced(self) -> Collection[int]:
        """The tokens that must come next, whatever the model would say: known already, or inevitable."""
        inevitable = self._inevitable()
        known = self.begun[self.generated : self.generated + max(1, len(inevitable))]
        # Together, where both say the same, since a grammar begins behind all of what closes a thought.
        agree = all(one == other for one, other in zip(inevitable, known, strict=False))
        return inevitable if inevitable and agree else known[:1]

    def _inevitable(self) -> Collection[int]:
        reading, choice = self.job.reading, self.choice
        if choice.in_reasoning:
            spent = reading.thought_budget is not None and choice.reasoning_tokens >= reading.thought_budget
            return reading.thought_closing if spent else ()
        return self.constraint.forced() if self.constraint else ()

    def append(self, token: int) -> None:
        """Add a token that was sampled or is forced."""
        self._tokens[self.length] = token
        self.length += 1
