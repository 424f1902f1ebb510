"""Names for keys and processes, and the numbers of rows."""

import secrets

KEY_PREFIX = "sk-"

MOST_DIGITS = 18
"""Longer numbers are no row's: the database counts in 64 bits."""


def new_key() -> str:
    """A key of 256 random bits, in base64url behind `sk-`. It is shown once; only its digest is kept."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def new_process_id() -> int:
    """63 random bits."""
    return secrets.randbits(63)
