"""From a row of logits to a token, exactly as docs/sampling.md says. NumPy only; nothing here knows llama.cpp."""

import hashlib
import struct
import sys

import numpy as np
import numpy.typing as npt

from dragoman.core.request import SamplingParams

Logits = npt.NDArray[np.float32]
Allowed = npt.NDArray[np.bool_]
Tokens = npt.NDArray[np.int32]
_Indices = npt.NDArray[np.intp]
_Masses = npt.NDArray[np.float32]
_Sums = npt.NDArray[np.float64]

GREEDY_BELOW = 1e-5
"""Temperatures under this choose the highest logit."""

_LARGEST_LOGIT = 1e30
"""Where an extreme repetition penalty is cut off, so that differences and quotients of logits stay finite."""

_LIKELY = 1e-4
"""top_p first looks only at tokens likelier than this; nearly always they hold the mass it asks for."""

_SAMPLE = 256
"""Tokens looked at to guess where top_p's border lies."""

_FEW = 512
"""Tokens worth sorting rather than guessing on."""

_GUESSES = 8
"""After so many guesses what is left is sorted, however much it is; three are usual."""

_BLOCK = 64
"""Tokens added up together before the drawn one is looked for among them."""


class NothingAllowed(Exception):
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
        seed: int,
        choice: int,
        prompt: Tokens,
        end_token_ids: frozenset[int],
        vocabulary_size: int,
    ) -> None:
        """`prompt` are all tokens fed to the model; `end_token_ids` what min_tokens bars besides stop_token_ids."""
        self._sampling = sampling
        self._seed = seed
        self._choice = choice
        self._greedy = sampling.temperature < GREEDY_BELOW
        self._barred = np.array(sorted({*end_token_ids, *sampling.stop_token_ids}), dtype=np.intp)
        self._bias_tokens = np.array(list(sampling.logit_bias), dtype=np.intp)
        self._bias = np.array(list(sampling.logit_bias.values()), dtype=np.float32)
        self._repeats = sampling.repetition_penalty != 1.0
        self._counts = sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0
        self._edits = bool(self._repeats or self._counts or len(self._bias_tokens))
        if self._repeats:
            self._seen = np.zeros(vocabulary_size, dtype=np.bool_)
            self._seen[prompt] = True
        if self._counts:
            self._occurrences = np.zeros(vocabulary_size, dtype=np.int32)

    def sample(self, logits: Logits, position: int, *, bar_ends: bool = False, allowed: Allowed | None = None) -> int:
        """The token at `position` (0 is the first generated one) from float32[vocabulary], which is left as it is.

        `allowed` is bool[vocabulary]; None: all are. Raises NothingAllowed.
        """
        masked = bar_ends or allowed is not None
        if self._edits or masked:
            logits = self._edited(logits, bar_ends, allowed)
        if masked and logits.max() == -np.inf:
            raise NothingAllowed
        # numpy's argmax takes the first of equal values, which is the lowest token id.
        token = int(logits.argmax()) if self._greedy else self._draw(logits, position)
        self.note(token)
        return token

    def note(self, token: int) -> None:
        """Count a token of the choice that was not sampled."""
        if self._repeats:
            self._seen[token] = True
        if self._counts:
            self._occurrences[token] += 1

    def _edited(self, logits: Logits, bar_ends: bool, allowed: Allowed | None) -> Logits:
        """A copy of the row after masks, bias and penalties."""
        sampling = self._sampling
        logits = logits.copy()
        logits[self._bias_tokens] += self._bias
        if self._repeats:
            seen = logits[self._seen].astype(np.float64)
            with np.errstate(over="ignore"):
                penalized = np.where(seen > 0, seen / sampling.repetition_penalty, seen * sampling.repetition_penalty)
            logits[self._seen] = penalized.clip(-_LARGEST_LOGIT, _LARGEST_LOGIT)
        if self._counts:
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
    blocks = np.add.reduceat(masses, np.arange(0, len(masses), _BLOCK), dtype=np.float64).cumsum()
    drawn = share * blocks[-1]
    block = _first_beyond(blocks, drawn)
    inside = masses[block * _BLOCK : (block + 1) * _BLOCK].cumsum(dtype=np.float64)
    return block * _BLOCK + _first_beyond(inside, drawn - (blocks[block - 1] if block else 0.0))


def _first_beyond(cumulative: _Sums, value: float) -> int:
    """Where `cumulative` first exceeds `value`; where it last grows, if rounding has made `value` too large."""
    return min(int(cumulative.searchsorted(value, side="right")), int(cumulative.searchsorted(cumulative[-1])))


def _narrow(kept: _Indices | None, masses: _Masses, chosen: _Indices) -> tuple[_Indices, _Masses]:
    return (chosen if kept is None else kept[chosen]), masses[chosen]


def _top_k(logits: Logits, k: int) -> _Indices | None:
    """Ascending ids of the k highest logits, the lower id on a tie at the border; None: all of them."""
    if not 0 < k < len(logits):
        return None
    border = np.partition(logits, len(logits) - k)[len(logits) - k]
    above = (logits > border).nonzero()[0]
    ties = (logits == border).nonzero()[0][: k - len(above)]
    return np.union1d(above, ties)


def _top_p(masses: _Masses, top_p: float) -> _Indices:
    """Ascending indices of the tokens, likeliest first, before which less than `top_p` of the mass lies.

    `masses` need not add up to 1; of equal ones the lower index is the likelier.
    """
    total = masses.sum(dtype=np.float64)
    # More than nothing is always wanted, so that a top_p of 0 keeps the likeliest token.
    wanted = max(top_p * total, sys.float_info.min)
    border, ties = _border(masses, wanted, _LIKELY * total)
    kept = (masses >= border).nonzero()[0]
    at_border = (masses[kept] == border).nonzero()[0]
    return np.delete(kept, at_border[ties:])


def _border(masses: _Masses, wanted: float, likely: float) -> tuple[float, int]:
    """The smallest mass among the largest ones that together hold `wanted`, and how many of that mass belong to them.

    A quickselect by mass: guess the border, add up what lies above, go on with the side it must be on, sort the rest.
    """
    above = 0.0
    candidates = masses.take((masses > likely).nonzero()[0])
    if candidates.sum(dtype=np.float64) < wanted:
        candidates = masses
    for _ in range(_GUESSES):
        if len(candidates) <= _FEW:
            break
        guess = _guess(candidates, wanted - above)
        larger = candidates > guess
        mass = candidates.take(larger.nonzero()[0]).sum(dtype=np.float64)
        if above + mass < wanted:
            above += mass
            larger = ~larger
        candidates = candidates.take(larger.nonzero()[0])
    ordered = np.sort(candidates)[::-1]
    cumulative = above + ordered.cumsum(dtype=np.float64)
    # The mass before token i is cumulative[i - 1], so one more token than lies below the wanted mass is kept.
    last = int(cumulative[:-1].searchsorted(wanted, side="left"))
    return float(ordered[last]), int(np.count_nonzero(ordered[: last + 1] == ordered[last]))


def _guess(candidates: _Masses, wanted: float) -> float:
    """About where the border lies, judged by a sample of the candidates."""
    sample = np.sort(candidates[:: len(candidates) // _SAMPLE])[::-1]
    cumulative = sample.cumsum(dtype=np.float64)
    share = wanted / candidates.sum(dtype=np.float64)
    return float(sample[min(int(cumulative.searchsorted(share * cumulative[-1])), len(sample) - 1)])
