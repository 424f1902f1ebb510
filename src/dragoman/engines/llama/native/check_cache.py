"""What was found out about a model file, kept in the user's cache: it need not be found out again at every start."""

import contextlib
import hashlib
from pathlib import Path

from dragoman.engines.llama.weights.digests import cache_folder, file_signature, write_cached

_PASSED, _FAILED = b"right", b"wrong"


def load_check(model: Path, check: str) -> bool | None:
    """Whether `what` was found to be so of the file as it is now; None: nobody has looked."""
    try:
        return {_PASSED: True, _FAILED: False}.get((cache_folder() / _cache_name(model, check)).read_bytes())
    except OSError:
        return None


def store_check(model: Path, check: str, *, passed: bool) -> None:
    """Keep it. Where nothing can be kept, it is found out again next time; that is all."""
    with contextlib.suppress(OSError):
        write_cached(_cache_name(model, check), _PASSED if passed else _FAILED)


def _cache_name(model: Path, check: str) -> str:
    facts = (str(model.resolve()), *file_signature(model.stat()), check)
    return f"verdicts/{hashlib.sha256(repr(facts).encode()).hexdigest()}"
