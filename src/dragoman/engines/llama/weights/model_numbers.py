"""The numbers in a model file's metadata: llama.cpp ends its process at some of them instead of reporting them."""

import math
from pathlib import Path

from dragoman.engines.llama.weights.gguf_files import ModelSourceError
from dragoman.engines.llama.weights.gguf_metadata import whole_metadata

_MAX_LAYERS = _MAX_EXPERTS = 512
"""LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS of llama.cpp."""

_WHOLE_NUMBERS = {
    "block_count": (1, _MAX_LAYERS),
    "context_length": (1, 2**31 - 1),
    "expert_count": (0, _MAX_EXPERTS),
}
"""The end of a key → the least and the largest value."""

_POSITIVE = ("_epsilon", "rope.freq_base", "rope.freq_base_swa")
"""Ends of keys."""

_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")


def check_model_numbers(path: Path) -> None:
    """Raise ModelSourceError for a value that no model has. A file that cannot be read is not refused here."""
    try:
        metadata = whole_metadata(path)
    except ModelSourceError:
        return  # The engine gives a better reason.
    prefix = f"{metadata.get('general.architecture', '')}."
    for key, value in metadata.items():
        if key.startswith(prefix) and (wanted := _wanted(key.removeprefix(prefix), value)):
            raise ModelSourceError(f"{path} cannot be served: its {key} is {value}, and must be {wanted}")
    experts, used = (metadata.get(f"{prefix}{name}", 0) for name in ("expert_count", "expert_used_count"))
    if isinstance(experts, int) and isinstance(used, int) and not min(experts, 1) <= used <= experts:
        raise ModelSourceError(
            f"{path} cannot be served: its {prefix}expert_used_count is {used}, and its {prefix}expert_count {experts}"
        )


def _wanted(key: str, value: str | float) -> str:
    """Return what the value of a key without its prefix must be. Empty: it may be what it is."""
    if key == "rope.scaling.type" and value not in _ROPE_SCALINGS:
        return f"one of {', '.join(_ROPE_SCALINGS)}"
    if isinstance(value, str):
        return ""
    least, most = _WHOLE_NUMBERS.get(key, (-math.inf, math.inf))
    if not least <= value <= most:
        return f"from {least} to {most}" if key in _WHOLE_NUMBERS else "a number"
    return "more than 0, and finite" if key.endswith(_POSITIVE) and not 0 < value < math.inf else ""
