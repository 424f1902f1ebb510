"""Names for keys and processes, and the numbers of rows."""

import hashlib
import secrets

KEY_PREFIX = "sk-"

MOST_DIGITS = 18
"""Longer numbers are no row's: the database counts in 64 bits."""


def new_key() -> str:
    """A key of 256 random bits, in base64url behind `sk-`. It is shown once; only its digest is kept."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """What is kept of a key: its SHA-256, in hex. A slow hash is for secrets that can be guessed; 256 bits cannot."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def new_process_id() -> int:
    """63 random bits."""
    return secrets.randbits(63)
