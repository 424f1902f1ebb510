"""Log-probabilities of the model's own distribution: of the raw logits, before sampling changes them."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dragoman.core.events import TokenLogprobs, TopLogprob

MIN_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have."""


def token_logprobs(
    logits: npt.NDArray[np.float32], token: int, top: int, piece: Callable[[int], bytes], *, with_rank: bool = False
) -> TokenLogprobs:
    """Return the log-probability of `token` in float32[vocabulary], and those of the `top` most likely tokens.

    Computes in float64. Equally likely tokens are in the order of their ids. `with_rank`: also the rank of the token.
    """
    exact = logits.astype(np.float64)
    highest = exact.max()
    total = highest + np.log(np.exp(exact - highest).sum())

    def logprob(of: int) -> float:
        return max(float(exact[of] - total), MIN_LOGPROB)

    top_logprobs = [TopLogprob(other, piece(other), logprob(other)) for other in _highest(exact, top)]
    rank = int(np.count_nonzero(exact >= exact[token])) if with_rank else None
    return TokenLogprobs(token, piece(token), logprob(token), top_logprobs, rank)


def _highest(values: npt.NDArray[np.float64], count: int) -> list[int]:
    if not count:
        return []
    count = min(count, len(values))
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    candidates = (values >= threshold).nonzero()[0]
    order = np.argsort(-values[candidates], kind="stable")[:count]
    return [int(token) for token in candidates[order]]
