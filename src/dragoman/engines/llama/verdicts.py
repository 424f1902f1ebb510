"""What was found out about a model file, kept in the user's cache: it need not be found out again at every start."""

import contextlib
import hashlib
from pathlib import Path

from dragoman.engines.llama.digests import appearance, cache_folder, write_cached

_RIGHT, _WRONG = b"right", b"wrong"


def remembered_verdict(model: Path, what: str) -> bool | None:
    """Whether `what` was found to be so of the file as it is now; None: nobody has looked."""
    try:
        return {_RIGHT: True, _WRONG: False}.get((cache_folder() / _name(model, what)).read_bytes())
    except OSError:
        return None


def remember_verdict(model: Path, what: str, *, holds: bool) -> None:
    """Keep it. Where nothing can be kept, it is found out again next time; that is all."""
    with contextlib.suppress(OSError):
        write_cached(_name(model, what), _RIGHT if holds else _WRONG)


def _name(model: Path, what: str) -> str:
    facts = (str(model.resolve()), *appearance(model.stat()), what)
    return f"verdicts/{hashlib.sha256(repr(facts).encode()).hexdigest()}"
