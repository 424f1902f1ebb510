"""API keys, process ids, and row ids."""

import secrets

KEY_PREFIX = "sk-"

MAX_ID_DIGITS = 18
"""No row has an id with more digits: ids have 64 bits."""

QUEUE_PROCESS_ID = 0
"""The owner of the holds of queued requests, which outlive every process; no process has this id. Recovery ignores
these holds, and they do not count towards a key's concurrent requests."""


def new_api_key() -> str:
    """Make a key of 256 random bits, in base64url after `sk-`. It is shown once; only its digest is stored."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def new_process_id() -> int:
    """Make a process id of 63 random bits, not all zero."""
    return 1 + secrets.randbelow(2**63 - 1)
