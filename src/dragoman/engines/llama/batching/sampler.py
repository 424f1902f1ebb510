"""From a row of logits to a token, exactly as docs/sampling.md says. NumPy only; nothing here knows llama.cpp."""

import hashlib
import struct
import sys

import numpy as np
import numpy.typing as npt

from dragoman.core.request import SamplingParams
from dragoman.engines.llama.arrays import Logits, TokenArray

_Mask = npt.NDArray[np.bool_]
_Indices = npt.NDArray[np.intp]
_Masses = npt.NDArray[np.float32]
_Sums = npt.NDArray[np.float64]

MIN_SAMPLING_TEMPERATURE = 1e-5
"""Temperatures under this choose the highest logit."""

_MAX_LOGIT = 1e30
"""Where an extreme repetition penalty is cut off, so that differences and quotients of logits stay finite."""

_MIN_CANDIDATE_MASS = 1e-4
"""top_p first looks only at tokens likelier than this; nearly always they hold the mass it asks for."""

_PIVOT_SAMPLE_SIZE = 256
"""Tokens looked at to guess where top_p's border lies."""

_MAX_SORTED_TOKENS = 512
"""Tokens worth sorting rather than guessing on."""

_MAX_PIVOTS = 8
"""After so many guesses what is left is sorted, however much it is; three are usual."""

_BLOCK_SIZE = 64
"""Tokens added up together before the drawn one is looked for among them."""


class NoTokenAllowed(Exception):
    """Masks left no token to choose from."""


def uniform(seed: int, choice: int, position: int) -> float:
    """The random number in [0, 1) for one position of one choice: a pure function, whatever else is running."""
    digest = hashlib.blake2b(struct.pack("<QII", seed, choice, position), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53


class Sampler:
    """Samples the tokens of one choice and remembers what its penalties need."""

    def __init__(
        self,
        sampling: SamplingParams,
        *,
        seed: int,
        choice: int,
        prompt: TokenArray,
        end_token_ids: frozenset[int],
        vocabulary_size: int,
    ) -> None:
        """`prompt` are all tokens fed to the model; `end_token_ids` what min_tokens bars besides stop_token_ids."""
        self._sampling = sampling
        self._seed = seed
        self._choice = choice
        self._greedy = sampling.temperature < MIN_SAMPLING_TEMPERATURE
        self._barred = np.array(sorted({*end_token_ids, *sampling.stop_token_ids}), dtype=np.intp)
        self._bias_tokens = np.array(list(sampling.logit_bias), dtype=np.intp)
        self._bias = np.array(list(sampling.logit_bias.values()), dtype=np.float32)
        self._penalizes_repetition = sampling.repetition_penalty != 1.0
        self._penalizes_counts = sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0
        self._adjusts_logits = bool(self._penalizes_repetition or self._penalizes_counts or len(self._bias_tokens))
        if self._penalizes_repetition:
            self._seen = np.zeros(vocabulary_size, dtype=np.bool_)
            self._seen[prompt] = True
        if self._penalizes_counts:
            self._occurrences = np.zeros(vocabulary_size, dtype=np.int32)

    def sample(self, logits: Logits, position: int, *, bar_ends: bool = False, allowed: _Mask | None = None) -> int:
        """The token at `position` (0 is the first generated one) from float32[vocabulary], which is left as it is.

        `allowed` is bool[vocabulary]; None: all are. Raises NoTokenAllowed.
        """
        masked = bar_ends or allowed is not None
        if self._adjusts_logits or masked:
            logits = self._adjusted(logits, bar_ends, allowed)
        if masked and logits.max() == -np.inf:
            raise NoTokenAllowed
        # numpy's argmax takes the first of equal values, which is the lowest token id.
        token = int(logits.argmax()) if self._greedy else self._draw(logits, position)
        self.record(token)
        return token

    def record(self, token: int) -> None:
        """Count a token of the choice that was not sampled."""
        if self._penalizes_repetition:
            self._seen[token] = True
        if self._penalizes_counts:
            self._occurrences[token] += 1

    def _adjusted(self, logits: Logits, bar_ends: bool, allowed: _Mask | None) -> Logits:
        """A copy of the row after masks, bias and penalties."""
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
        return logits

    def _draw(self, logits: Logits, position: int) -> int:
        sampling = self._sampling
        kept = _top_k(logits, sampling.top_k)
        values = logits if kept is None else logits[kept]
        masses = np.exp((values - values.max()) / np.float32(sampling.temperature))
        if sampling.top_p < 1.0:
            kept, masses = _narrow(kept, masses, _top_p(masses, sampling.top_p))
        if sampling.min_p > 0.0:
            kept, masses = _narrow(kept, masses, (masses >= sampling.min_p * masses.max()).nonzero()[0])
        index = _token_at(masses, uniform(self._seed, self._choice, position))
        return index if kept is None else int(kept[index])


def _token_at(masses: _Masses, share: float) -> int:
    """The token under which `share` of the mass falls, laid out by ascending index; never one without mass.

    Added up in float64: in float32 the rare tokens of a large vocabulary would vanish beside the sum.
    """
    blocks = np.add.reduceat(masses, np.arange(0, len(masses), _BLOCK_SIZE), dtype=np.float64).cumsum()
    drawn = share * blocks[-1]
    block = _first_beyond(blocks, drawn)
    inside = masses[block * _BLOCK_SIZE : (block + 1) * _BLOCK_SIZE].cumsum(dtype=np.float64)
    return block * _BLOCK_SIZE + _first_beyond(inside, drawn - (blocks[block - 1] if block else 0.0))


def _first_beyond(cumulative: _Sums, value: float) -> int:
    """Where `cumulative` first exceeds `value`; where it last grows, if rounding has made `value` too large."""
    return min(int(cumulative.searchsorted(value, side="right")), int(cumulative.searchsorted(cumulative[-1])))


def _narrow(kept: _Indices | None, masses: _Masses, chosen: _Indices) -> tuple[_Indices, _Masses]:
    return (chosen if kept is None else kept[chosen]), masses[chosen]


def _top_k(logits: Logits, k: int) -> _Indices | None:
    """Ascending ids of the k highest logits, the lower id on a tie at the border; None: all of them."""
    if not 0 < k < len(logits):
        return None
    threshold = np.partition(logits, len(logits) - k)[len(logits) - k]
    above = (logits > threshold).nonzero()[0]
    ties = (logits == threshold).nonzero()[0][: k - len(above)]
    return np.union1d(above, ties)


def _top_p(masses: _Masses, top_p: float) -> _Indices:
    """Ascending indices of the tokens, likeliest first, before which less than `top_p` of the mass lies.

    `masses` need not add up to 1; of equal ones the lower index is the likelier.
    """
    total = masses.sum(dtype=np.float64)
    # More than nothing is always wanted, so that a top_p of 0 keeps the likeliest token.
    wanted_mass = max(top_p * total, sys.float_info.min)
    threshold, ties = _mass_threshold(masses, wanted_mass, _MIN_CANDIDATE_MASS * total)
    kept = (masses >= threshold).nonzero()[0]
    at_threshold = (masses[kept] == threshold).nonzero()[0]
    return np.delete(kept, at_threshold[ties:])


def _mass_threshold(masses: _Masses, wanted_mass: float, min_candidate_mass: float) -> tuple[float, int]:
    """The smallest mass among the largest ones that together hold `wanted`, and how many of that mass belong to them.

    A quickselect by mass: guess the border, add up what lies above, go on with the side it must be on, sort the rest.
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
    """About where the border lies, judged by a sample of the candidates."""
    sample = np.sort(candidates[:: len(candidates) // _PIVOT_SAMPLE_SIZE])[::-1]
    cumulative = sample.cumsum(dtype=np.float64)
    share = wanted_mass / candidates.sum(dtype=np.float64)
    return float(sample[min(int(cumulative.searchsorted(share * cumulative[-1])), len(sample) - 1)])
