"""A grammar applied to one choice: the tokens that it allows next, and those that it forces."""

import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import llguidance
import llguidance.numpy
import numpy as np
import numpy.typing as npt

from dragoman.core.errors import BadRequest
from dragoman.output.grammar import PARSER_LIMITS

TokenMask = npt.NDArray[np.bool_]
"""bool[vocabulary]"""

GRAMMAR_CACHE_SIZE = 64
"""Compiled grammars cached for each model, since conversations repeat theirs."""

_MASK_THREADS = 2
"""Most masks take less than a step. The model needs the processor, too."""

_SLOW_SECONDS = 0.003
"""What a slow mask takes of its thread's own time. Those of schemas take a tenth, but for the first ones."""

_SLOW_MASKS = 16
"""The masks after a slow one that are taken for slow, too."""

_PROBE_TEXT = b"name"


class ConstraintFailed(Exception):
    """The grammar cannot continue: it became too complex, or a token was not allowed."""


class GrammarVocabulary(Protocol):
    """The tokens of a model, as far as grammars need them."""

    @property
    def size(self) -> int: ...

    @property
    def end_token_ids(self) -> frozenset[int]: ...

    def piece(self, token: int) -> bytes: ...

    def is_special(self, token: int) -> bool: ...

    def tokenize_plain(self, text: bytes) -> Sequence[int]:
        """Tokenize text without recognising special tokens and without a prefix."""
        ...


class _LlguidanceVocabulary:
    """Implements the vocabulary of llguidance.TokenizerWrapper."""

    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        self._vocabulary = vocabulary
        self.tokens = [vocabulary.piece(token) for token in range(vocabulary.size)]
        self.special_token_ids = [token for token in range(vocabulary.size) if vocabulary.is_special(token)]
        self.eos_token_id = min(vocabulary.end_token_ids, default=0)
        self.bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        return list(self._vocabulary.tokenize_plain(text))


class GrammarConstraint:
    """A compiled grammar and the position of one choice in it. Not thread-safe."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary_size: int, *, fast_forward: bool = True) -> None:
        """With `fast_forward`, `forced` returns tokens that need not be sampled."""
        self._matcher = matcher
        self._vocabulary_size = vocabulary_size
        self._fast_forward = fast_forward
        self._mask = llguidance.numpy.allocate_token_bitmask(1, vocabulary_size)
        self._is_mask_current = False
        self.is_ready = True
        """Whether no thread computes a mask of it."""
        self._masks_until_quick = 0

    def copy(self, *, fast_forward: bool = True) -> "GrammarConstraint":
        """Copy the grammar and its position for another choice."""
        both = self._fast_forward and fast_forward
        return GrammarConstraint(self._matcher.deep_copy(), self._vocabulary_size, fast_forward=both)

    @property
    def is_complete(self) -> bool:
        """Whether the grammar allows no further token. Raises ConstraintFailed."""
        self._check()
        return self._matcher.is_stopped()

    def compute_mask(self) -> None:
        """Compute the next mask unless it is current."""
        if not self._is_mask_current:
            started = time.thread_time()
            llguidance.numpy.fill_next_token_bitmask(self._matcher, self._mask)
            self._is_mask_current = True
            is_slow = time.thread_time() - started > _SLOW_SECONDS
            self._masks_until_quick = _SLOW_MASKS if is_slow else max(0, self._masks_until_quick - 1)

    @property
    def is_slow(self) -> bool:
        """Whether one of its last masks took so long that others should not wait for the next one."""
        return self._masks_until_quick > 0

    def allowed(self) -> TokenMask:
        """Return the mask of the tokens that may come next. Raises ConstraintFailed."""
        self.compute_mask()
        self._check()
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")[: self._vocabulary_size]
        return bits.view(np.bool_)

    def accept(self, token: int) -> None:
        """Advance by the chosen token. Raises ConstraintFailed."""
        self._is_mask_current = False
        self._matcher.consume_token(token)
        self._check()

    def count_allowed(self, tokens: Sequence[int]) -> int:
        """Return how many of the tokens may come next, one after the other, without advancing.

        Fewer if it takes long: what a mask does not look at is not bounded, and the engine waits for it.
        """
        count = asked = 0
        while count == asked < len(tokens):
            started, asked = time.thread_time(), max(1, 2 * asked)
            count = int(self._matcher.validate_tokens(list(tokens[:asked])))
            if time.thread_time() - started > _SLOW_SECONDS:
                self._masks_until_quick = _SLOW_MASKS
                break
        return count

    def forced(self) -> list[int]:
        """Return the tokens that must come next, in order, without advancing."""
        if not self._fast_forward:
            return []
        tokens = self._matcher.compute_ff_tokens()
        # A tokenizer drops bytes that its vocabulary has no token for. The tokens after them would not fit.
        return tokens[: self._matcher.validate_tokens(tokens)]

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintFailed(self._matcher.get_error().partition("\n")[0])


class GrammarCompiler:
    """Compiles grammars for one vocabulary and caches the most recent ones."""

    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        """Prepare the vocabulary, which takes a tenth of a second for 50,000 tokens."""
        wrapper = llguidance.TokenizerWrapper(_LlguidanceVocabulary(vocabulary))
        ends = sorted(vocabulary.end_token_ids) or None
        self._tokenizer = llguidance.LLTokenizer(wrapper, vocabulary.size, ends)
        self._vocabulary_size = vocabulary.size
        # Some tokenizers put a space before every text. Their tokens do not fit into the middle of another text.
        spelled = b"".join(map(vocabulary.piece, vocabulary.tokenize_plain(_PROBE_TEXT)))
        self._fast_forward = spelled == _PROBE_TEXT
        self.compile = functools.lru_cache(GRAMMAR_CACHE_SIZE)(self._compile)
        """compile(grammar, parameter, owner) -> the grammar at its beginning.

        Owners share none: the time that it takes would reveal what another one has sent. Raises BadRequest of
        `parameter` if the grammar cannot be enforced.
        """

    def _compile(self, grammar: str, parameter: str, owner: str = "") -> GrammarConstraint:  # noqa: ARG002
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, limits=PARSER_LIMITS, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().partition("\n")[0]
            raise BadRequest(f"{parameter} cannot be enforced: {reason}", parameter)
        return GrammarConstraint(matcher, self._vocabulary_size, fast_forward=self._fast_forward)


class MaskWorker:
    """Computes masks on threads of its own while the model computes logits.

    Owners take turns, and each has one thread at a time: the masks of one never wait for another's, however long those
    take, unless as many others compute as there are threads.
    """

    def __init__(self, threads: int = _MASK_THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, "masks")
        self._changed = threading.Condition()
        self._idle_threads = threads
        self._waiting: dict[str, deque[GrammarConstraint]] = {}
        """By owner, the one whose turn it is first. Without those who have a thread."""
        self._behind: dict[str, deque[GrammarConstraint]] = {}
        """Of the owners who have a thread."""
        self._begun: list[GrammarConstraint] = []

    def begin(self, constraints: Iterable[tuple[str, GrammarConstraint]]) -> None:
        """Start to compute the next masks, each for its owner. Until it is ready, a constraint must not be used."""
        self._begun = []
        with self._changed:
            for owner, constraint in constraints:
                self._begun.append(constraint)
                if constraint.is_ready:
                    constraint.is_ready = False
                    of_owner = self._behind if owner in self._behind else self._waiting
                    of_owner.setdefault(owner, deque()).append(constraint)
            started = min(self._idle_threads, len(self._waiting))
            self._idle_threads -= started
        for _ in range(started):
            self._pool.submit(self._work)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the masks that were begun last are computed, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: all(each.is_ready for each in self._begun), seconds)

    def wait_for_any(self, constraints: Collection[GrammarConstraint], seconds: float) -> None:
        """Wait until one of these is ready, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: any(each.is_ready for each in constraints), seconds)

    def _work(self) -> None:
        """Compute masks in the turns of their owners until none waits."""
        with self._changed:
            while self._waiting:
                owner = next(iter(self._waiting))
                queue = self._behind[owner] = self._waiting.pop(owner)
                constraint = queue.popleft()
                self._changed.release()
                try:
                    # What fails here fails again, and is reported, where the mask is used.
                    with contextlib.suppress(Exception):
                        constraint.compute_mask()
                finally:
                    self._changed.acquire()
                constraint.is_ready = True
                del self._behind[owner]
                if queue:
                    self._waiting[owner] = queue
                self._changed.notify_all()
            self._idle_threads += 1
