"""A request in the engine, and the sequences of its choices."""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

from dragoman.core.events import TokenLogprobs
from dragoman.core.limits import excludes_tokens
from dragoman.core.request import QUEUED_PRIORITY_OFFSET, SamplingParams
from dragoman.engines.llama.arrays import NO_CELLS, Cells, TokenArray
from dragoman.engines.llama.batching.host_cache import SharingScope
from dragoman.engines.llama.batching.sampler import Sampler
from dragoman.engines.llama.batching.speculation import Drafter, PromptNgrams
from dragoman.engines.llama.native.backend import NO_ADAPTER, ImageEmbeddings
from dragoman.output.bad_words import TokenSequence
from dragoman.output.constraint import GrammarConstraint
from dragoman.output.parts import OutputParser
from dragoman.output.processor import OutputProcessor

MAX_FORCED_TOKENS_PER_STEP = 16
"""Forced tokens of a sequence that one decode step computes beside the single tokens of others."""

MAX_PROMPT_LOGPROBS = 64
"""Prompt tokens for which one step gives logits: each row of a large vocabulary takes half a megabyte and some ms."""

RequestKey = tuple[int, int]
"""The number of the worker's connection, and that of the request on it."""


class TokenizedOutputFormat(NamedTuple):
    """The output format of one request in the tokens of its model."""

    new_parser: Callable[[], OutputParser | None] = lambda: None
    """Makes the parser of one choice, or None if all of its text is content."""
    markup_token_ids: frozenset[int] = frozenset()
    """Special tokens whose text the parser must see."""
    reasoning_budget: int | None = None
    """The most reasoning tokens of a choice. None means no limit."""
    reasoning_closing_token_ids: tuple[int, ...] = ()
    """The marker that ends the reasoning."""
    after_reasoning_token_ids: tuple[int, ...] = ()
    """What the model's template writes between the marker and the answer. Forced where a grammar would leave it out."""


class PromptImage(NamedTuple):
    """An image, or one of its tiles, in a prompt. Tokens that are in no vocabulary stand for it.

    A prompt has them in its order.
    """

    start: int
    """The position of its first token."""
    image: ImageEmbeddings

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + len(self.image.embeddings)


PLAIN_OUTPUT = TokenizedOutputFormat()
"""Content only."""


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
        prompt_logprobs: int | None = None,
        reports_prompt: bool = False,
        bad_words: Sequence[TokenSequence] = (),
        constraint: GrammarConstraint | None = None,
        unenforced: tuple[str, ...] = (),
        output_format: TokenizedOutputFormat = PLAIN_OUTPUT,
        adapter: int = NO_ADAPTER,
        resume_token_ids: tuple[tuple[int, ...], ...] = (),
        owner: str = "",
        cache_salt: str = "",
        public_tokens: int = 0,
        images: Sequence[PromptImage] = (),
    ) -> None:
        """`max_tokens` is the effective limit of every choice.

        `echo` is text that every choice begins with. `logprobs` is the number of likeliest tokens reported at every
        position; None reports no log-probabilities. `prompt_logprobs` is the same for the tokens of the prompt, which
        `reports_prompt` reports before every choice. `bad_words` are the tokens of the sampling's.
        `constraint` binds every choice from its beginning on.
        `resume_token_ids` are the tokens of each choice that an earlier attempt generated; empty if there was none.
        """
        self.key = key
        self.prompt = prompt
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.priority = priority
        self.echo = echo
        self.logprobs = logprobs
        self.prompt_logprobs = prompt_logprobs
        self.prompt_top = max(
            (top for top in (prompt_logprobs, logprobs if echo else None) if top is not None), default=None
        )
        """The number of likeliest tokens to compute at every position of the prompt; None: no log-probabilities."""
        self.reports_prompt = reports_prompt or prompt_logprobs is not None
        self.bad_words = bad_words
        self.constraint = constraint
        self.unenforced = unenforced
        """Keywords of its schemas that the constraint does not enforce."""
        self.output_format = output_format
        self.adapter = adapter
        self.resume_token_ids = resume_token_ids
        self.owner = owner
        self.cache_salt = cache_salt
        self.public_tokens = public_tokens
        self.images = images
        self.has_started = False
        """Whether the beginning of its answer was sent."""
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        self.cached_tokens: int | None = None
        """Prompt tokens that the first choice shared instead of computing them. None before it began."""

    @functools.cached_property
    def ngrams(self) -> PromptNgrams:
        """The n-grams of the prompt, indexed when they are first needed."""
        return PromptNgrams(self.prompt)

    @property
    def is_queued(self) -> bool:
        """Whether no client waits for it, so that it comes after all others."""
        return self.priority >= QUEUED_PRIORITY_OFFSET

    def position_of(self, index: int) -> int:
        """Return the position of a token in the model's eyes: an image may have fewer positions than tokens."""
        if not self.images:
            return index
        return index - sum(each.image.surplus for each in self.images if each.end <= index)

    def image_at(self, position: int) -> ImageEmbeddings | None:
        """Return the image that begins at the position of the prompt. None: there is none."""
        return next((each.image for each in self.images if each.start == position), None) if self.images else None

    def is_preemptible_by(self, other: "EngineRequest") -> bool:
        """Whether it gives up slots and cells for the other request: it is queued, and the other is interactive."""
        return self.is_queued and not other.is_queued


class ChoiceSequence:
    """One choice of a request: its tokens, how many of them are computed, and the cells that hold them."""

    def __init__(
        self, request: EngineRequest, index: int, arrival: int, sampler: Sampler, output_processor: OutputProcessor
    ) -> None:
        self.request = request
        self.scope = SharingScope(request.adapter, request.owner, request.cache_salt, request.public_tokens)
        self.resume_token_ids = request.resume_token_ids[index] if request.resume_token_ids else ()
        self.index = index
        self.arrival = arrival
        self.sampler = sampler
        self.output_processor = output_processor
        # Tokens that are not sampled have no logits to report, and may be those that the request forbids.
        fast_forward = request.logprobs is None and not excludes_tokens(request.sampling)
        self.constraint = request.constraint.copy(fast_forward=fast_forward) if request.constraint else None
        has_budget = request.output_format.reasoning_budget is not None
        self._is_free = self.constraint is None and not self.resume_token_ids and not has_budget
        """Whether no token is ever forced."""
        self.prompt_logprobs: list[TokenLogprobs] = []
        """Of the computed prompt tokens, if the request wants them."""
        self._tokens = np.empty(len(request.prompt) + request.max_tokens, dtype=np.int32)
        self._tokens[: len(request.prompt)] = request.prompt
        self.length = len(request.prompt)
        """Number of known tokens: those of the prompt and the generated ones."""
        self.sequence_id: int | None = None
        """llama.cpp's id of the sequence while it holds a slot."""
        self.cells: Cells = NO_CELLS
        """One for each computed token and each token of the current step."""
        self._cell_buffer: Cells = NO_CELLS
        """What `cells` are the beginning of, with room for more."""
        self.computed = 0
        """Number of tokens whose cells are filled; only these can be shared."""
        self.checkpoint: int | None = None
        """The number of tokens whose state is kept for the other choices of the request. None: it is not."""
        self._drafter: Drafter | None = None

    @property
    def adapter(self) -> int:
        """The number of the adapter that computes it."""
        return self.request.adapter

    @property
    def owner(self) -> str:
        """Whom it is computed for."""
        return self.request.owner

    @property
    def is_queued(self) -> bool:
        """Whether its request is queued."""
        return self.request.is_queued

    @property
    def running_id(self) -> int:
        """The id of a running sequence."""
        assert self.sequence_id is not None, "a sequence has an id while it holds a slot"
        return self.sequence_id

    @property
    def has_slot(self) -> bool:
        """Whether it is running, even if none of its tokens are computed yet."""
        return self.sequence_id is not None

    @property
    def is_scheduled(self) -> bool:
        """Whether the current step computes tokens of it, whose cells are allocated already."""
        return len(self.cells) > self.computed

    @property
    def tokens(self) -> TokenArray:
        """All known tokens."""
        return self._tokens[: self.length]

    def tokens_between(self, start: int, end: int) -> TokenArray:
        """Return known tokens from one position to another."""
        return self._tokens[start:end]

    @property
    def pending(self) -> int:
        """Number of tokens to compute before the next one can be sampled."""
        return self.length - self.computed

    @property
    def generated(self) -> int:
        """Number of generated tokens."""
        return self.length - len(self.request.prompt)

    @property
    def sort_key(self) -> tuple[int, int, int]:
        """The order in which sequences get slots and cells, lowest first."""
        return (self.request.priority, self.arrival, self.index)

    @property
    def next_checkpoint(self) -> int | None:
        """The checkpoint, if it is still to come."""
        return self.checkpoint if self.checkpoint is not None and self.computed < self.checkpoint else None

    def computable_together(self, position: int, count: int) -> int:
        """Return how many of `count` tokens from the position on are computed together.

        That is an image and nothing else, or what stands before the next image and before the checkpoint.
        """
        for each in self.request.images:
            if each.start == position:
                return each.end - position
            if position < each.start < position + count:
                count = each.start - position
        return count if self.next_checkpoint is None else min(count, self.next_checkpoint - position)

    @property
    def is_decoding(self) -> bool:
        """Whether its prompt is computed and its pending tokens fit into a decode step."""
        pending = self.length - self.computed
        return pending == 1 or (self.computed >= len(self.request.prompt) and pending <= MAX_FORCED_TOKENS_PER_STEP)

    @property
    def needs_prompt_logprobs(self) -> bool:
        """Whether the log-probabilities of the prompt must still be reported, so that all of it must be computed."""
        return self.request.prompt_top is not None and not self.generated

    @property
    def shareable_tokens(self) -> TokenArray:
        """The tokens for which it may use the cells of another sequence."""
        return self.tokens[:0] if self.needs_prompt_logprobs else self.tokens

    @property
    def active_constraint(self) -> GrammarConstraint | None:
        """The grammar that the next token must follow. None within reasoning, which is unconstrained."""
        if self.constraint is None or self.output_processor.in_reasoning or self._awaits_grammar:
            return None
        return self.constraint

    @property
    def _awaits_grammar(self) -> bool:
        """Whether what stands between the reasoning and a constrained answer comes next, unless resume tokens differ.

        The reasoning has just ended with its marker, and with no white space in the same token.
        """
        output_format, output_processor = self.request.output_format, self.output_processor
        following = output_format.after_reasoning_token_ids
        return (
            self.constraint is not None
            and 0 < output_processor.tokens == output_processor.reasoning_tokens
            and len(following) > 0
            and not output_processor.in_reasoning
            and int(self._tokens[self.length - 1]) == output_format.reasoning_closing_token_ids[-1]
            and self._resumes_with(following)
        )

    def _resumes_with(self, tokens: Collection[int]) -> bool:
        """Whether the tokens to resume after, if there are more of them, go on with these."""
        return all(one == other for one, other in zip(tokens, self.resume_token_ids[self.generated :], strict=False))

    @property
    def ends_are_barred(self) -> bool:
        """Whether the choice must not end yet: it has too few tokens, or reasons before a constrained answer."""
        return self.output_processor.ends_are_barred or (
            self.constraint is not None and self.output_processor.in_reasoning
        )

    def forced(self) -> Collection[int]:
        """Return the tokens that must come next: those to resume after, or those that the output format forces."""
        if self._is_free:
            return ()
        required = self._forced_by_format()
        resumed = self.resume_token_ids[self.generated : self.generated + max(1, len(required))]
        # All of them at once if both agree, since a grammar begins after the last token that ends the reasoning.
        return required if required and self._resumes_with(required) else resumed[:1]

    def _forced_by_format(self) -> Collection[int]:
        output_format, output_processor = self.request.output_format, self.output_processor
        if output_processor.in_reasoning:
            is_budget_spent = (
                output_format.reasoning_budget is not None
                and output_processor.reasoning_tokens >= output_format.reasoning_budget
            )
            end = (*output_format.reasoning_closing_token_ids, *output_format.after_reasoning_token_ids)
            return end if is_budget_spent else ()
        if self._awaits_grammar:
            return output_format.after_reasoning_token_ids
        return self.constraint.forced() if self.constraint else ()

    def add_cells(self, added: Cells) -> None:
        """Add cells behind the others, which are not copied as long as there is room."""
        count, end = len(self.cells), len(self.cells) + len(added)
        if self.cells.base is not self._cell_buffer or end > len(self._cell_buffer):
            self._cell_buffer = np.empty(16 + end + end // 2, dtype=np.int32)
            self._cell_buffer[:count] = self.cells
        self._cell_buffer[count:end] = added
        self.cells = self._cell_buffer[:end]

    def append(self, token: int) -> None:
        """Add a sampled or forced token."""
        self._tokens[self.length] = token
        self.length += 1
        if self._drafter is not None:
            self._drafter.append(token)

    def observe(self, token: int) -> None:
        """Count whether this sampled token, which is appended next, was expected."""
        if self._drafter is not None:
            self._drafter.observe(token)

    @property
    def drafter(self) -> Drafter:
        """What drafts its next tokens, made when it is first needed."""
        if self._drafter is None:
            prompt = self.request.ngrams
            self._drafter = Drafter(prompt, self.tokens[len(self.request.prompt) :].tolist())
        return self._drafter

    @property
    def max_draft_tokens(self) -> int:
        """The most tokens that may be drafted: the last token of a choice is never computed."""
        return 0 if self.needs_prompt_logprobs else self.request.max_tokens - self.generated - 1

    def draft(self, count: int) -> list[int]:
        """Return up to `count` tokens that are expected next, as far as the grammar allows them."""
        if self.constraint is not None and self.constraint.is_slow:  # Others would wait for what it says of them.
            return []
        draft = self.drafter.draft(count)
        if self.request.images:  # Numbers below zero stand for them, and are no tokens that could follow.
            draft = draft[: next((number for number, token in enumerate(draft) if token < 0), count)]
        return draft[: self.active_constraint.count_allowed(draft)] if self.active_constraint else draft


def next_victim(running: Sequence[ChoiceSequence]) -> ChoiceSequence | None:
    """Return the sequence to preempt first: the youngest of the owner with the most, among the queued if there are any.

    Those that are scheduled already are not preempted, and count all the same. So every owner keeps its oldest
    sequence as long as another one has two. None if all are scheduled.
    """
    unscheduled = [one for one in running if not one.is_scheduled]
    preemptible = [one for one in unscheduled if one.is_queued] or unscheduled
    if not preemptible:
        return None
    counts = Counter(one.owner for one in running if one.is_queued == preemptible[0].is_queued)
    youngest = {one.owner: one for one in preemptible}
    most = max(counts[owner] for owner in youngest)
    return max((one for owner, one in youngest.items() if counts[owner] == most), key=lambda one: one.arrival)
