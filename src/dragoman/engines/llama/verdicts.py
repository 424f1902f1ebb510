"""What was found out about a model file, kept in the user's cache: it need not be found out again at every start."""

import contextlib
import hashlib
import os
from pathlib import Path

from dragoman.engines.llama.digests import cache_folder

_RIGHT, _WRONG = "right", "wrong"


def remembered_verdict(model: Path, what: str) -> bool | None:
    """Whether `what` was found to be so of the file as it is now; None: nobody has looked."""
    try:
        return {_RIGHT: True, _WRONG: False}.get(_place(model, what).read_text())
    except (OSError, UnicodeDecodeError):
        return None


def remember_verdict(model: Path, what: str, *, holds: bool) -> None:
    """Keep it. Where nothing can be kept, it is found out again next time; that is all."""
    with contextlib.suppress(OSError):
        place = _place(model, what)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = place.with_name(f"{place.name}.{os.getpid()}")
        unfinished.write_text(_RIGHT if holds else _WRONG)
        unfinished.replace(place)


def _place(model: Path, what: str) -> Path:
    status = model.stat()
    facts = (str(model.resolve()), status.st_size, status.st_mtime_ns, status.st_ino, what)
    return cache_folder() / "verdicts" / hashlib.sha256(repr(facts).encode()).hexdigest()
