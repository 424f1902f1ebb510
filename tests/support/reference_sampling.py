"""A slow implementation of docs/sampling.md, sections 1 to 3, in float64."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from dragoman.core.request import SamplingParams


def probabilities(
    row: Sequence[float],
    sampling: SamplingParams,
    prompt: Sequence[int],
    generated: Sequence[int],
    barred: Iterable[int] = (),
) -> list[float]:
    """Return the probability of each token. `barred` tokens are masked."""
    values = adjusted_logits(row, sampling, prompt, generated, barred)
    if sampling.temperature < 1e-5:
        best = values.index(max(values))
        return [float(token == best) for token in range(len(values))]
    values = [value / sampling.temperature for value in values]
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))
    if sampling.top_k > 0:
        order = order[: sampling.top_k]
    highest = values[order[0]]
    likely = normalized({token: math.exp(values[token] - highest) for token in order})
    mass_before = 0.0
    remaining: dict[int, float] = {}
    for token, probability in likely.items():
        if not remaining or mass_before < sampling.top_p:
            remaining[token] = probability
        mass_before += probability
    min_probability = sampling.min_p * max(remaining.values())
    remaining = normalized({token: p for token, p in remaining.items() if p >= min_probability})
    return [remaining.get(token, 0.0) for token in range(len(values))]


def adjusted_logits(
    row: Sequence[float],
    sampling: SamplingParams,
    prompt: Sequence[int],
    generated: Sequence[int],
    barred: Iterable[int] = (),
) -> list[float]:
    """Return the logits after masks, bias and penalties."""
    values = list(row)
    for token in barred:
        values[token] = -math.inf
    for token, bias in sampling.logit_bias.items():
        values[token] += bias
    for token in {*prompt, *generated}:
        values[token] *= 1 / sampling.repetition_penalty if values[token] > 0 else sampling.repetition_penalty
    for token, count in Counter(generated).items():
        values[token] -= sampling.frequency_penalty * count
        values[token] -= sampling.presence_penalty
    return values


def normalized(masses: dict[int, float]) -> dict[int, float]:
    total = sum(masses.values())
    return {token: mass / total for token, mass in masses.items()}
