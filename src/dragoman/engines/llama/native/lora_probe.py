"""The check that an adapter computes numbers, before anybody's cells can be spoiled by it."""

import numpy as np

from dragoman.engines.llama.native.backend import Chunk, DecodeError
from dragoman.engines.llama.native.context import LlamaContext
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.lora import LoraAdapter
from dragoman.engines.llama.native.model import Model, ModelError

_PROBE_TOKENS = 16
_PROBE_CELLS = 256


def require_numbers(model: Model, adapter: LoraAdapter, name: str, threads: int) -> None:
    """Raise ModelError unless the logits with the adapter are numbers, for tokens from all over the vocabulary.

    The probe has a context of its own: values that are no numbers would spoil the cells of all sequences in a shared
    one.
    """
    tokens = np.linspace(0, model.vocabulary.size - 1, _PROBE_TOKENS).astype(np.int32)
    context = LlamaContext(model, ContextOptions(_PROBE_CELLS, _PROBE_TOKENS, threads, sequence_ids=1))
    try:
        context.set_adapter(adapter)
        try:
            logits = context.decode([Chunk(0, 0, tokens, _PROBE_TOKENS)])
        except DecodeError as error:
            raise ModelError(f"{name} cannot be used as an adapter: {error}") from error
        if not np.isfinite(logits).all():
            raise ModelError(f"{name} cannot be used as an adapter: with it the model computes what are no numbers")
    finally:
        context.close()
