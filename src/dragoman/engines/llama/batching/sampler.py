"""The sampler: from a row of logits to a token, exactly as docs/sampling.md says. It needs nothing but NumPy."""

import functools
import hashlib
import math
import struct
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dragoman.core.request import SamplingParams
from dragoman.engines.llama.arrays import Logits, TokenArray
from dragoman.output.bad_words import BadWords, TokenSequence

_Mask = npt.NDArray[np.bool_]
_Indices = npt.NDArray[np.intp]
_Masses = npt.NDArray[np.float32]
_Sums = npt.NDArray[np.float64]

MIN_SAMPLING_TEMPERATURE = 1e-5
"""At lower temperatures the token with the highest logit is chosen."""

_MAX_LOGIT = 1e30
"""The bound on logits after an extreme repetition penalty; differences and quotients of logits stay finite."""

_MIN_CANDIDATE_MASS = 1e-4
"""top_p first considers only tokens with more than this share of the mass. Nearly always they are enough."""

_PIVOT_SAMPLE_SIZE = 256
"""Number of tokens from which the threshold of top_p is estimated."""

_MAX_SORTED_TOKENS = 512
"""Up to this number, tokens are sorted instead of partitioned once more."""

_MAX_PIVOTS = 8
"""After this number of pivots the remaining tokens are sorted, however many there are. Three are usual."""

_BLOCK_SIZE = 64
"""Number of tokens whose masses are summed before the drawn token is searched for among them."""


class NoTokenAllowed(Exception):
    """The masks left no token to choose from."""


class LogitsNotFinite(Exception):
    """The highest logit is no number, or infinite."""


def uniform(seed: int, choice: int, position: int) -> float:
    """Return the random number in [0, 1) for one position of one choice: a pure function of the arguments."""
    digest = hashlib.blake2b(struct.pack("<QII", seed, choice, position), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53


class Sampler:
    """Samples the tokens of one choice and counts what its penalties depend on."""

    def __init__(
        self,
        sampling: SamplingParams,
        *,
        seed: int,
        choice: int,
        prompt: TokenArray,
        end_token_ids: frozenset[int],
        vocabulary_size: int,
        bad_words: Sequence[TokenSequence] = (),
    ) -> None:
        """`prompt`: all tokens of the prompt. `end_token_ids`: barred by min_tokens, as stop_token_ids are.

        `bad_words`: the tokens of the sampling's bad_words.
        """
        self._sampling = sampling
        self._seed = seed
        self._choice = choice
        self._greedy = sampling.temperature < MIN_SAMPLING_TEMPERATURE
        self._barred = np.array(sorted({*end_token_ids, *sampling.stop_token_ids}), dtype=np.intp)
        self._bias_tokens = np.array(list(sampling.logit_bias), dtype=np.intp)
        self._bias = np.array(list(sampling.logit_bias.values()), dtype=np.float32)
        self._penalizes_repetition = sampling.repetition_penalty != 1.0
        self._penalizes_counts = sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0
        self._bad_words = BadWords(bad_words) if bad_words else None
        self._masks_logits = sampling.allowed_token_ids is not None or self._bad_words is not None
        self._adjusts_logits = bool(self._penalizes_repetition or self._penalizes_counts or len(self._bias_tokens))
        self._prompt = prompt
        self._vocabulary_size = vocabulary_size

    # Thousands of choices may wait, and those that wait need none of these.

    @functools.cached_property
    def _excluded(self) -> _Mask | None:
        """bool[vocabulary]: the tokens that allowed_token_ids does not hold."""
        if self._sampling.allowed_token_ids is None:
            return None
        excluded = np.ones(self._vocabulary_size, dtype=np.bool_)
        excluded[np.array(self._sampling.allowed_token_ids, dtype=np.intp)] = False
        return excluded

    @functools.cached_property
    def _seen(self) -> _Mask:
        """bool[vocabulary]: the tokens of the prompt and the choice."""
        seen = np.zeros(self._vocabulary_size, dtype=np.bool_)
        seen[self._prompt] = True
        return seen

    @functools.cached_property
    def _occurrences(self) -> TokenArray:
        """int32[vocabulary]: how often the choice has each token."""
        return np.zeros(self._vocabulary_size, dtype=np.int32)

    def sample(self, logits: Logits, position: int, *, bar_ends: bool = False, allowed: _Mask | None = None) -> int:
        """Sample the token at `position` (0 is the first generated one) from float32[vocabulary], which is not changed.

        `allowed` is bool[vocabulary]; None allows all tokens. Raises NoTokenAllowed or LogitsNotFinite.
        """
        masked = self._masks_logits or bar_ends or allowed is not None
        if self._adjusts_logits or masked:
            logits = self._adjusted(logits, bar_ends, allowed)
        if masked and logits.max() == -np.inf:
            raise NoTokenAllowed
        # numpy's argmax takes the first of equal values, which is the lowest token id.
        token = int(logits.argmax()) if self._greedy else self._draw(logits, position)
        if self._greedy and not math.isfinite(logits.item(token)):
            raise LogitsNotFinite
        self.record(token)
        return token

    def record(self, token: int) -> None:
        """Count a token of the choice that was not sampled here."""
        if self._penalizes_repetition:
            self._seen[token] = True
        if self._penalizes_counts:
            self._occurrences[token] += 1
        if self._bad_words is not None:
            self._bad_words.record(token)

    def _adjusted(self, logits: Logits, bar_ends: bool, allowed: _Mask | None) -> Logits:
        """Return a copy of the row after masks, bias and penalties."""
        sampling = self._sampling
        logits = logits.copy()
        logits[self._bias_tokens] += self._bias
        if self._penalizes_repetition:
            seen = logits[self._seen].astype(np.float64)
            with np.errstate(over="ignore"):
                penalized = np.where(seen > 0, seen / sampling.repetition_penalty, seen * sampling.repetition_penalty)
            logits[self._seen] = penalized.clip(-_MAX_LOGIT, _MAX_LOGIT)
        if self._penalizes_counts:
            occurred = self._occurrences.nonzero()[0]
            frequency = np.float32(sampling.frequency_penalty) * self._occurrences[occurred]
            logits[occurred] -= frequency + np.float32(sampling.presence_penalty)
        # Masks come first in the documentation and last here: nothing lifts a logit out of minus infinity.
        if allowed is not None:
            logits[~allowed] = -np.inf
        if bar_ends:
            logits[self._barred] = -np.inf
        if self._excluded is not None:
            logits[self._excluded] = -np.inf
        if self._bad_words is not None:
            logits[self._bad_words.barred()] = -np.inf
        return logits

    def _draw(self, logits: Logits, position: int) -> int:
        sampling = self._sampling
        kept = _top_k(logits, sampling.top_k)
        values = logits if kept is None else logits[kept]
        highest = values.max(initial=-np.inf)  # top_k finds none among values that are no numbers.
        if not math.isfinite(highest):
            raise LogitsNotFinite
        masses = np.exp((values - highest) / np.float32(sampling.temperature))
        if sampling.top_p < 1.0:
            kept, masses = _narrow(kept, masses, _top_p(masses, sampling.top_p))
        if sampling.min_p > 0.0:
            kept, masses = _narrow(kept, masses, (masses >= sampling.min_p * masses.max()).nonzero()[0])
        index = _token_at(masses, uniform(self._seed, self._choice, position))
        return index if kept is None else int(kept[index])


def _token_at(masses: _Masses, share: float) -> int:
    """Return the token at which the cumulative mass, by ascending index, exceeds `share` of the total.

    A token without mass is never returned. The sums are in float64: in float32 the rare tokens of a large vocabulary
    would vanish beside the sum.
    """
    blocks = np.add.reduceat(masses, np.arange(0, len(masses), _BLOCK_SIZE), dtype=np.float64).cumsum()
    drawn = share * blocks[-1]
    block = _first_beyond(blocks, drawn)
    inside = masses[block * _BLOCK_SIZE : (block + 1) * _BLOCK_SIZE].cumsum(dtype=np.float64)
    return block * _BLOCK_SIZE + _first_beyond(inside, drawn - (blocks[block - 1] if block else 0.0))


def _first_beyond(cumulative: _Sums, value: float) -> int:
    """Return where `cumulative` first exceeds `value`, or where it last grows if rounding made `value` too large."""
    return min(int(cumulative.searchsorted(value, side="right")), int(cumulative.searchsorted(cumulative[-1])))


def _narrow(kept: _Indices | None, masses: _Masses, chosen: _Indices) -> tuple[_Indices, _Masses]:
    return (chosen if kept is None else kept[chosen]), masses[chosen]


def _top_k(logits: Logits, k: int) -> _Indices | None:
    """Return the ascending ids of the k highest logits; of equal ones at the threshold the lower id. None means all."""
    if not 0 < k < len(logits):
        return None
    threshold = np.partition(logits, len(logits) - k)[len(logits) - k]
    above = (logits > threshold).nonzero()[0]
    ties = (logits == threshold).nonzero()[0][: k - len(above)]
    return np.union1d(above, ties)


def _top_p(masses: _Masses, top_p: float) -> _Indices:
    """Return the ascending indices of the likeliest tokens, each with less than `top_p` of the mass before it.

    `masses` need not add up to 1. Of equal masses the one with the lower index comes first.
    """
    total = masses.sum(dtype=np.float64)
    # The wanted mass is never zero, so that a top_p of 0 keeps the likeliest token.
    wanted_mass = max(top_p * total, sys.float_info.min)
    threshold, ties = _mass_threshold(masses, wanted_mass, _MIN_CANDIDATE_MASS * total)
    kept = (masses >= threshold).nonzero()[0]
    at_threshold = (masses[kept] == threshold).nonzero()[0]
    return np.delete(kept, at_threshold[ties:])


def _mass_threshold(masses: _Masses, wanted_mass: float, min_candidate_mass: float) -> tuple[float, int]:
    """Return the smallest of the largest masses that together reach `wanted_mass`, and how many equal to it are needed.

    This is a quickselect by mass: choose a pivot, sum what lies above it, continue on the side that holds the
    threshold, sort the rest.
    """
    above = 0.0
    candidates = masses.take((masses > min_candidate_mass).nonzero()[0])
    if candidates.sum(dtype=np.float64) < wanted_mass:
        candidates = masses
    for _ in range(_MAX_PIVOTS):
        if len(candidates) <= _MAX_SORTED_TOKENS:
            break
        pivot = _choose_pivot(candidates, wanted_mass - above)
        larger = candidates > pivot
        mass = candidates.take(larger.nonzero()[0]).sum(dtype=np.float64)
        if above + mass < wanted_mass:
            above += mass
            larger = ~larger
        candidates = candidates.take(larger.nonzero()[0])
    ordered = np.sort(candidates)[::-1]
    cumulative = above + ordered.cumsum(dtype=np.float64)
    # The mass before token i is cumulative[i - 1], so one more token than lies below the wanted mass is kept.
    last = int(cumulative[:-1].searchsorted(wanted_mass, side="left"))
    return float(ordered[last]), int(np.count_nonzero(ordered[: last + 1] == ordered[last]))


def _choose_pivot(candidates: _Masses, wanted_mass: float) -> float:
    """Estimate the threshold from a sample of the candidates."""
    sample = np.sort(candidates[:: len(candidates) // _PIVOT_SAMPLE_SIZE])[::-1]
    cumulative = sample.cumsum(dtype=np.float64)
    share = wanted_mass / candidates.sum(dtype=np.float64)
    return float(sample[min(int(cumulative.searchsorted(share * cumulative[-1])), len(sample) - 1)])
