"""From a row of logits to a token, exactly as docs/sampling.md says. NumPy only; nothing here knows llama.cpp."""

import hashlib
import struct

import numpy as np
import numpy.typing as npt

from dragoman.core.request import SamplingParams

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]
_Indices = npt.NDArray[np.intp]
_Masses = npt.NDArray[np.float32]

GREEDY_BELOW = 1e-5
"""Temperatures under this choose the highest logit."""

_LARGEST_LOGIT = 1e30
"""Where an extreme repetition penalty is cut off, so that differences and quotients of logits stay finite."""

_FIRST_THRESHOLD = 1e-4
"""top_p first looks only at tokens likelier than this; nearly always they hold the mass it asks for."""


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

    def sample(self, logits: Logits, position: int, *, bar_ends: bool = False) -> int:
        """The token at `position` (0 is the first generated one) from float32[vocabulary], which is left as it is."""
        if self._edits or bar_ends:
            logits = self._edited(logits, bar_ends)
        # numpy's argmax takes the first of equal values, which is the lowest token id.
        token = int(logits.argmax()) if self._greedy else self._draw(logits, position)
        if self._repeats:
            self._seen[token] = True
        if self._counts:
            self._occurrences[token] += 1
        return token

    def _edited(self, logits: Logits, bar_ends: bool) -> Logits:
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
        # Added up in float64: in float32 the rare tokens of a large vocabulary would vanish beside the sum.
        cumulative = masses.cumsum(dtype=np.float64)
        drawn = uniform(self._seed, self._choice, position) * cumulative[-1]
        index = min(int(cumulative.searchsorted(drawn, side="right")), len(cumulative) - 1)
        return index if kept is None else int(kept[index])


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

    `masses` need not add up to 1. Only tokens above a threshold are sorted; they hold the mass asked for, since
    below the second threshold there is no room for more than 1 - top_p of it.
    """
    total = masses.sum(dtype=np.float64)
    for threshold in (_FIRST_THRESHOLD, (1 - top_p) / len(masses)):
        candidates = (masses > threshold * total).nonzero()[0]
        if len(candidates) and masses[candidates].sum(dtype=np.float64) >= top_p * total:
            break
    else:
        candidates = np.arange(len(masses))
    ordered = candidates[np.argsort(-masses[candidates], kind="stable")]
    cumulative = masses[ordered].cumsum(dtype=np.float64)
    # The mass before token i is cumulative[i - 1], so one more token than lies below top_p is kept.
    count = 1 + int(cumulative[:-1].searchsorted(top_p * total, side="left"))
    return np.sort(ordered[:count])
