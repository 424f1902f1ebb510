"""Speculative decoding by prompt lookup: which tokens are drafted, and how many pay. No model, no clock.

A draft repeats what followed the sequence's last tokens where they occurred before, in its prompt or its answer. The
batcher computes it in the step of the token before it, and keeps what is then sampled all the same.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from dragoman.engines.llama.arrays import TokenArray

_TOKEN_BITS = 20
"""Enough for the largest vocabularies. Three tokens fit into 64 bits."""

_MAX_COMPARED_TOKENS = 16
"""Matches of this length and more count as equally reliable."""

_MIN_FOLLOWED_TOKENS = 3
"""An occurrence that was followed for so long is looked for again behind a difference."""

_MAX_INSERTED_TOKENS = 5
"""Of a difference: tokens that the followed occurrence does not have."""

_MAX_SKIPPED_TOKENS = 12
"""Of a difference: tokens that only the followed occurrence has."""

_KINDS = (1, 2, 3, 6, 12)
"""The shortest matches of each kind. The first kind is that behind a difference."""

_PRIOR_ACCEPTANCE = (0.6, 0.45, 0.78, 0.9, 0.95)
"""Estimates of each kind before a sequence has any of its own: what texts had that repeat their prompts."""

_PRIOR_WEIGHT = 6.0
"""The number of observed tokens that the prior counts as."""

_ACCEPTANCE_DECAY = 0.97
"""What an observed token counts after the next one of its kind."""

_PRIOR_TOKEN_COST = 0.3
"""The cost of another token in a step, in the fixed cost of a step, before it is measured."""

_COST_DECAY = 0.97
"""What a measured step counts after the next one."""

_COST_RIDGE = 20.0
"""The weight of the last estimate, in squared tokens. Where all steps are alike, it is all there is."""

_COST_DRIFT = 0.003
"""The part of the way back to the prior that the last estimate goes in a step, so that no wrong one lasts."""

_LENGTH_CLASSES = 2
"""Of sequences, from one length to its double: steps of each are observed apart."""

_MAX_OUTLIER = 3.0
"""A step counts at most as this many times the expected duration: another process may have had the processor."""

_MIN_ACCEPTANCE = 0.02
"""A token that is less likely to be kept never pays."""

_SAFETY_FACTOR = 1.1
"""The gain must exceed the cost by so much, since both are estimates."""


MAX_DRAFT_TOKENS = 15
"""Of one sequence in one step, unless the settings say otherwise."""


class PromptNgrams:
    """The last occurrence of each pair and each triple of tokens in a prompt, except at its very end.

    All choices of a request share it.
    """

    def __init__(self, prompt: TokenArray) -> None:
        self.tokens: list[int] = prompt.tolist()
        wide = prompt.astype(np.int64)
        pairs = wide[:-1] << _TOKEN_BITS | wide[1:]
        triples = pairs[:-1] << _TOKEN_BITS | wide[2:]
        self.after_pair = dict(zip(pairs[:-1].tolist(), range(2, len(wide)), strict=True))
        """The pair → the position after it."""
        self.after_triple = dict(zip(triples[:-1].tolist(), range(3, len(wide)), strict=True))


class Drafter:
    """Follows an earlier occurrence of a sequence's last tokens: as long as it goes on alike, then another one.

    That is the last occurrence of the last three tokens; or the one followed before, where it goes on alike behind a
    small difference; or the last occurrence of the last two tokens. Each token takes constant time.
    """

    def __init__(self, prompt: PromptNgrams, answer: Sequence[int] = ()) -> None:
        self._prompt = prompt
        self._answer: list[int] = []
        self._after_pair: dict[int, int] = {}
        self._after_triple: dict[int, int] = {}
        self._source: int | None = None
        """The position of the token that is expected next. None: nothing is expected."""
        self.matched = 0
        """The number of last tokens that are equal to those before the source, at most _MAX_COMPARED_TOKENS."""
        self._left_at: int | None = None
        """The position of the token that was expected where the text last differed from what it followed."""
        self._since_left = 0
        """The number of tokens since then."""
        self._trials = [_PRIOR_WEIGHT] * len(_PRIOR_ACCEPTANCE)
        self._hits = [_PRIOR_WEIGHT * prior for prior in _PRIOR_ACCEPTANCE]
        self._find_source()
        self._index_last_tokens()
        for token in answer:
            self.append(token)

    @property
    def _length(self) -> int:
        return len(self._prompt.tokens) + len(self._answer)

    def observe(self, token: int) -> None:
        """Count whether this sampled token is the expected one. Called before it is appended."""
        if self._source is None:
            return
        kind = _kind(self.matched)
        self._trials[kind] = self._trials[kind] * _ACCEPTANCE_DECAY + 1.0
        self._hits[kind] = self._hits[kind] * _ACCEPTANCE_DECAY + (self._token(self._source) == token)

    def append(self, token: int) -> None:
        """Add a token to the sequence."""
        source = self._source
        expected = source is not None and self._token(source) == token
        self._answer.append(token)
        self._since_left += 1
        if source is not None and expected:
            self._source = source + 1
            self.matched = min(max(self.matched, 2) + 1, _MAX_COMPARED_TOKENS)
        else:
            if source is not None and (self.matched >= _MIN_FOLLOWED_TOKENS or not self._may_return):
                self._left_at, self._since_left = source, 1
            self._find_source()
        self._index_last_tokens()

    def draft(self, count: int) -> list[int]:
        """Return the `count` tokens that are expected next; none if nothing is. What repeats is repeated on."""
        if self._source is None:
            return []
        period = self._length - self._source
        repeated = [self._token(position) for position in range(self._source, self._source + min(count, period))]
        return [repeated[number % period] for number in range(count)]

    def acceptance(self, count: int) -> list[float]:
        """Return the estimated probability, for each of the next `count` drafted tokens, that all up to it are kept.

        Those that are hardly ever kept are left out.
        """
        if self._source is None:
            return []
        probabilities, all_kept = [], 1.0
        for matched in range(self.matched, self.matched + count):
            kind = _kind(matched)
            all_kept *= self._hits[kind] / self._trials[kind]
            if all_kept < _MIN_ACCEPTANCE:
                break
            probabilities.append(all_kept)
        return probabilities

    def _token(self, position: int) -> int:
        prompt = self._prompt.tokens
        return prompt[position] if position < len(prompt) else self._answer[position - len(prompt)]

    def _find_source(self) -> None:
        self._source, self.matched = None, 0
        pair, triple = self._last_ngrams()
        if triple is not None and (found := self._after_triple.get(triple) or self._prompt.after_triple.get(triple)):
            self._source, self.matched = found, 3
            while self.matched < min(_MAX_COMPARED_TOKENS, found) and self._matches_before(found, self.matched):
                self.matched += 1
        elif (found := self._find_return()) is not None:
            self._source, self.matched = found, 1
        elif pair is not None and (found := self._after_pair.get(pair) or self._prompt.after_pair.get(pair)):
            self._source, self.matched = found, 2

    @property
    def _may_return(self) -> bool:
        return self._left_at is not None and self._since_left <= _MAX_INSERTED_TOKENS + 1

    def _find_return(self) -> int | None:
        """Return the position behind the last token in what was followed before, a few tokens on. None: it is not."""
        if self._left_at is None or not self._may_return:
            return None
        last = self._token(self._length - 1)
        for position in range(self._left_at, min(self._left_at + _MAX_SKIPPED_TOKENS + 1, self._length - 1)):
            if self._token(position) == last:
                return position + 1
        return None

    def _matches_before(self, source: int, matched: int) -> bool:
        return self._token(source - matched - 1) == self._token(self._length - matched - 1)

    def _index_last_tokens(self) -> None:
        pair, triple = self._last_ngrams()
        if pair is not None:
            self._after_pair[pair] = self._length
        if triple is not None:
            self._after_triple[triple] = self._length

    def _last_ngrams(self) -> tuple[int | None, int | None]:
        """Return the last pair and the last triple, as numbers. None where there are too few tokens."""
        length = self._length
        if length < 2:
            return None, None
        pair = self._token(length - 2) << _TOKEN_BITS | self._token(length - 1)
        triple = self._token(length - 3) << 2 * _TOKEN_BITS | pair if length > 2 else None
        return pair, triple


def _kind(matched: int) -> int:
    """Return the kind of a match of this length."""
    return bisect_right(_KINDS, matched) - 1


def agreeing_tokens(tokens: Sequence[int], draft: Sequence[int]) -> int:
    """Return the number of first tokens that are those of the draft."""
    count = 0
    for token, drafted in zip(tokens, draft, strict=False):
        if token != drafted:
            break
        count += 1
    return count


class StepCosts:
    """What another token costs a decode step, by the durations of the last ones.

    A step takes a fixed time and a time for each token: the least squares of recent steps, drawn to the last estimate.
    Both grow with the length of the texts, so that steps behind long and behind short ones must not be mixed.
    """

    def __init__(self, token_cost: float = _PRIOR_TOKEN_COST) -> None:
        self.token_cost = token_cost
        """The time of a token, in the fixed time of a step."""
        self._weight = self._tokens = self._squares = self._seconds = self._products = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """Take the duration of a step that decoded this number of tokens."""
        if self._weight:
            expected = self._seconds * (1 + self.token_cost * tokens) / (self._weight + self.token_cost * self._tokens)
            seconds = min(seconds, _MAX_OUTLIER * expected)
        # Written out, since it is a part of each step.
        self._weight = weight = _COST_DECAY * self._weight + 1.0
        self._tokens = all_tokens = _COST_DECAY * self._tokens + tokens
        self._squares = squares = _COST_DECAY * self._squares + tokens * tokens
        self._seconds = all_seconds = _COST_DECAY * self._seconds + seconds
        self._products = products = _COST_DECAY * self._products + tokens * seconds
        mean_tokens, mean_seconds = all_tokens / weight, all_seconds / weight
        last = self.token_cost + _COST_DRIFT * (_PRIOR_TOKEN_COST - self.token_cost)
        last_slope = mean_seconds * last / (1 + last * mean_tokens)
        covariance = products - all_tokens * mean_seconds
        variance = squares - all_tokens * mean_tokens
        slope = max(0.0, (covariance + _COST_RIDGE * last_slope) / (variance + _COST_RIDGE))
        fixed = max(mean_seconds - slope * mean_tokens, mean_seconds / 100)
        self.token_cost = slope / fixed if fixed else _PRIOR_TOKEN_COST

    def log_ratio(self, tokens: int, more: int) -> float:
        """Return the logarithm of what a step takes with `more` tokens, by what it takes without."""
        return math.log1p(self.token_cost * more / (1 + self.token_cost * tokens))


class Draftable(Protocol):
    """A sequence that may get a draft."""

    @property
    def length(self) -> int:
        """The number of its tokens."""
        ...

    @property
    def drafter(self) -> Drafter:
        """What knows its tokens."""
        ...

    @property
    def max_draft_tokens(self) -> int:
        """The most tokens of a draft."""
        ...

    def draft(self, count: int) -> list[int]:
        """Return up to `count` tokens that are expected next and allowed."""
        ...


DraftedSequence = TypeVar("DraftedSequence", bound=Draftable)


class DraftPlanner:
    """Divides the drafted tokens of a step among its sequences.

    A step that takes longer delays all of its sequences. So drafts are chosen for the highest product of the rates of
    all: a token is worth the logarithm of its sequence's expected gain, and costs each sequence that of the delay.
    """

    def __init__(self, max_draft_tokens: int) -> None:
        """`max_draft_tokens`: of one sequence in one step. 0 turns speculation off."""
        self.max_draft_tokens = max_draft_tokens
        self._costs: dict[int, StepCosts] = {}
        """Class of lengths → what steps cost whose sequences are of such lengths."""
        self._step_costs: StepCosts | None = None
        """Those of the step that was planned last. None: it had no room for drafts."""

    def observe(self, tokens: int, seconds: float) -> None:
        """Take the duration of the step that was planned last, with the number of its tokens."""
        if self._step_costs is not None:
            self._step_costs.observe(tokens, seconds)

    def draft(self, sequences: Sequence[DraftedSequence], tokens: int, room: int) -> dict[DraftedSequence, list[int]]:
        """Draft up to `room` tokens beside `tokens` that are computed anyway, where that pays."""
        self._step_costs = None
        if room <= 0 or not self.max_draft_tokens or not sequences:
            return {}
        self._step_costs = costs = self._costs_of(sequences)
        lengths = self._lengths(sequences, tokens, room, costs)
        if not lengths:
            return {}
        drafts = {one: one.draft(length) for one, length in zip(sequences, lengths, strict=False) if length}
        return {one: draft for one, draft in drafts.items() if draft}

    def _costs_of(self, sequences: Sequence[Draftable]) -> StepCosts:
        """Return what is known of steps behind texts of such a length. At first it is what holds for the nearest."""
        mean_length = sum(sequence.length for sequence in sequences) / len(sequences)
        length_class = round(_LENGTH_CLASSES * math.log2(1 + mean_length))
        costs = self._costs.get(length_class)
        if costs is None:
            nearest = min(self._costs, key=lambda known: abs(known - length_class), default=None)
            costs = StepCosts() if nearest is None else StepCosts(self._costs[nearest].token_cost)
            self._costs[length_class] = costs
        return costs

    def _lengths(self, sequences: Sequence[Draftable], tokens: int, room: int, costs: StepCosts) -> list[int]:
        gains: list[tuple[float, int]] = []
        for number, sequence in enumerate(sequences):
            limit = min(sequence.max_draft_tokens, self.max_draft_tokens, room)
            expected = 1.0
            for probability in sequence.drafter.acceptance(limit):
                gains.append((math.log1p(probability / expected), number))
                expected += probability
        if not gains:
            return []
        # The gains of one sequence decrease, so that the best ones are the beginnings of drafts.
        gains.sort(reverse=True)
        best = total = 0.0
        chosen = 0
        for count, (gain, _) in enumerate(gains[:room], 1):
            total += gain
            net = total - _SAFETY_FACTOR * len(sequences) * costs.log_ratio(tokens, count)
            if net > best:
                best, chosen = net, count
        lengths = [0] * len(sequences)
        for _, number in gains[:chosen]:
            lengths[number] += 1
        return lengths
