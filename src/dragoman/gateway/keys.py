"""The keys that open the server."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from dragoman.core.errors import Unauthenticated


def key_digest(key: str) -> str:
    """What is kept of a key: its SHA-256, in hex."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


class KeyRing:
    """Keys, known by their digests alone."""

    def __init__(self, digests: Iterable[str] | Mapping[str, str]) -> None:
        """The digests may come with labels: what people call the keys."""
        self._digests = tuple(digests)
        self._labels = digests if isinstance(digests, Mapping) else {}

    def __bool__(self) -> bool:
        return bool(self._digests)

    def label(self, key: str | None) -> str:
        """What people call the key; empty if nobody gave it a name."""
        return self._labels.get(key_digest(key), "") if key else ""

    def check(self, key: str | None) -> None:
        """Raise Unauthenticated unless the key is one of them. How long it takes tells nothing about them."""
        if not key:
            raise Unauthenticated("missing")
        digest = key_digest(key)
        # All are compared: stopping at the right one would tell where it stands.
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            raise Unauthenticated("unknown", key)


NO_KEYS = KeyRing(())
