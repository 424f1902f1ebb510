"""Sampling parameters that OpenAI's API does not have, under the names that clients of vLLM send."""

from typing import Annotated

import msgspec
from msgspec import Meta

Probability = Annotated[float, Meta(ge=0, le=1)]


class SamplingExtensions(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters that OpenAI's API does not have, under the names that clients of vLLM send."""

    top_k: Annotated[int, Meta(ge=-1)] = -1
    min_p: Probability = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0)] = 1.0
    min_tokens: Annotated[int, Meta(ge=0)] = 0
    ignore_eos: bool = False
    stop_token_ids: list[int] = []
    seed: int | None = None
    """Negative ones are read as unsigned 64-bit ones."""
    stop: str | list[str] = []
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] = {}
    """By token id, as a string."""
    cache_salt: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None
    """Prefixes are shared with requests of the same salt only."""
