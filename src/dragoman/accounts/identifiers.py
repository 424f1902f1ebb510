"""Names for keys and processes, and the numbers of rows."""

import secrets

KEY_PREFIX = "sk-"

MAX_ID_DIGITS = 18
"""Longer numbers are no row's: the database counts in 64 bits."""

QUEUE_PROCESS_ID = 0
"""In its name are the holds of requests that wait in a queue which outlives every process. No process has this id:
recovery leaves them alone, and they are none of a key's requests that run at the same time."""


def new_api_key() -> str:
    """A key of 256 random bits, in base64url behind `sk-`. It is shown once; only its digest is kept."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def new_process_id() -> int:
    """63 random bits, not all zero."""
    return 1 + secrets.randbelow(2**63 - 1)
