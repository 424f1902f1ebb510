"""One choice of one request on its way through the engine."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np

from dragoman.core.events import TokenLogprobs
from dragoman.core.request import QUEUED_PRIORITY_OFFSET, SamplingParams
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.batching.cells import NO_CELLS, Cells
from dragoman.engines.llama.batching.sampler import Sampler
from dragoman.engines.llama.native.backend import NO_ADAPTER
from dragoman.output.constraint import GrammarConstraint
from dragoman.output.parts import OutputParser
from dragoman.output.processor import OutputProcessor

MAX_FORCED_TOKENS_PER_STEP = 16
"""Tokens that are known without sampling and computed beside other sequences' single ones."""

_MAX_PROMPT_LOGPROBS_PER_STEP = 64
"""Prompt tokens of which a step gives logits: a row of a large vocabulary takes half a megabyte."""

RequestKey = tuple[int, int]
"""A job's name: the worker's connection and its number there."""


class TokenizedOutputFormat(NamedTuple):
    """What is not plain text in the answers of one job."""

    new_parser: Callable[[], OutputParser | None] = lambda: None
    """A reader for one choice; None: all of it is content."""
    markup_token_ids: frozenset[int] = frozenset()
    """Special tokens whose text the reader must see."""
    reasoning_budget: int | None = None
    """Tokens a choice may think; None: as many as it likes."""
    reasoning_end_token_ids: tuple[int, ...] = ()
    """What ends a thought that is longer."""


PLAIN_OUTPUT = TokenizedOutputFormat()
"""Content and nothing else."""


class EngineRequest:
    """One request: its prompt, computed once, and its choices."""

    def __init__(
        self,
        key: RequestKey,
        prompt: TokenArray,
        sampling: SamplingParams,
        max_tokens: int,
        *,
        priority: int = 0,
        echo: str = "",
        logprobs: int | None = None,
        constraint: GrammarConstraint | None = None,
        output_format: TokenizedOutputFormat = PLAIN_OUTPUT,
        adapter: int = NO_ADAPTER,
        resume_token_ids: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        """`limit` is the effective max_tokens of every choice.

        `echo` is text that every choice begins with. `logprobs`: tell so many of the likeliest tokens at every place;
        None: tell of none. `constraint` binds every choice, from its beginning on. `begun` are the tokens of each
        choice that an earlier attempt generated; empty: none did.
        """
        self.key = key
        self.prompt = prompt
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.priority = priority
        self.echo = echo
        self.logprobs = logprobs
        self.constraint = constraint
        self.output_format = output_format
        self.adapter = adapter
        self.resume_token_ids = resume_token_ids
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self.cached_tokens: int | None = None
        """Prompt tokens shared rather than computed, as the first choice found them; None before it began."""

    def is_preemptible_by(self, other: "EngineRequest") -> bool:
        """Whether it gives up slots and cells for the other one: it is queued, and somebody waits for that."""
        return self.priority >= QUEUED_PRIORITY_OFFSET > other.priority


class ChoiceSequence:
    """Tokens known, tokens computed, and where the computed ones lie."""

    def __init__(
        self, request: EngineRequest, index: int, arrival: int, sampler: Sampler, output_processor: OutputProcessor
    ) -> None:
        self.request = request
        self.resume_token_ids = request.resume_token_ids[index] if request.resume_token_ids else ()
        self.index = index
        self.arrival = arrival
        self.sampler = sampler
        self.output_processor = output_processor
        # Only a token that is sampled comes with logits to tell of.
        self.constraint = request.constraint.copy(fast_forward=request.logprobs is None) if request.constraint else None
        self.prompt_logprobs: list[TokenLogprobs] = []
        """Of the prompt's tokens, as far as it is computed, if they are to be told."""
        self._tokens = np.empty(len(request.prompt) + request.max_tokens, dtype=np.int32)
        self._tokens[: len(request.prompt)] = request.prompt
        self.length = len(request.prompt)
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
        return self.request.adapter

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
        return self.length - len(self.request.prompt)

    @property
    def sort_key(self) -> tuple[int, int, int]:
        """Lower goes first, wherever sequences compete."""
        return (self.request.priority, self.arrival, self.index)

    @property
    def is_decoding(self) -> bool:
        """Whether its prompt is computed and what is pending may go into a step of decoding."""
        return self.pending == 1 or (
            self.computed >= len(self.request.prompt) and self.pending <= MAX_FORCED_TOKENS_PER_STEP
        )

    @property
    def needs_prompt_logprobs(self) -> bool:
        """Whether the prompt's log-probabilities are still to be told, so that all of it must be computed."""
        return bool(self.request.echo) and self.request.logprobs is not None and not self.generated

    @property
    def shareable_tokens(self) -> TokenArray:
        """The tokens whose cells may be another sequence's."""
        return self.tokens[:0] if self.needs_prompt_logprobs else self.tokens

    @property
    def max_step_tokens(self) -> int:
        """Tokens of it that one step may compute."""
        return _MAX_PROMPT_LOGPROBS_PER_STEP if self.needs_prompt_logprobs else self.length

    @property
    def active_constraint(self) -> GrammarConstraint | None:
        """The grammar that the next token must follow. A thought is free."""
        return None if self.output_processor.in_reasoning else self.constraint

    @property
    def ends_are_barred(self) -> bool:
        """Whether the choice must not end yet: it has too few tokens, or thinks of an answer that a grammar binds."""
        return self.output_processor.ends_are_barred or (
            self.output_processor.in_reasoning and self.constraint is not None
        )

    def forced(self) -> Collection[int]:
        """The tokens that must come next, whatever the model would say: known already, or inevitable."""
        required = self._forced_by_format()
        resumed = self.resume_token_ids[self.generated : self.generated + max(1, len(required))]
        # Together, where both say the same, since a grammar begins behind all of what closes a thought.
        agree = all(one == other for one, other in zip(required, resumed, strict=False))
        return required if required and agree else resumed[:1]

    def _forced_by_format(self) -> Collection[int]:
        output_format, output_processor = self.request.output_format, self.output_processor
        if output_processor.in_reasoning:
            is_budget_spent = (
                output_format.reasoning_budget is not None
                and output_processor.reasoning_tokens >= output_format.reasoning_budget
            )
            return output_format.reasoning_end_token_ids if is_budget_spent else ()
        return self.constraint.forced() if self.constraint else ()

    def append(self, token: int) -> None:
        """Add a token that was sampled or is forced."""
        self._tokens[self.length] = token
        self.length += 1
