"""Names for requests, and what is kept of keys."""

import hashlib
import secrets
import time


def new_request_id() -> str:
    """32 hex digits: a UUID of version 7 (RFC 9562), its first 48 bits the milliseconds since 1970.

    Ids that grow with time are cheap to store: they land at the end of an index, however long it is.
    """
    milliseconds = time.time_ns() // 1_000_000
    chance = secrets.randbits(74)
    return f"{milliseconds << 80 | 7 << 76 | chance >> 62 << 64 | 2 << 62 | chance & (1 << 62) - 1:032x}"


def key_digest(key: str) -> str:
    """What is kept of a key: its SHA-256, in hex. A slow hash is for secrets that can be guessed; 256 bits cannot."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
