"""The settings' table [responses], and the key that follows from it."""

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from dragoman.server.secret_settings import LongSecret

REASONING_SECRET_VARIABLE = "DRAGOMAN_WORKER_REASONING_SECRET"
"""Passes the secret to workers, which all need the same. Other users can read a process's arguments, but not its
environment."""


class ResponsesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Responses API."""

    reasoning_secret: LongSecret | None = None
    """Text of the key that encrypts reasoning which clients keep. Not set: a random one, until the server stops."""
    retention_days: Annotated[float, Meta(gt=0)] = 30.0
    """Time that stored responses are kept. They need a database: `[accounts]` or `record_usage`."""
    max_stored_bytes: Annotated[int, Meta(ge=0)] = 1024 * 1024 * 1024
    """Size of all stored responses together. Above it, the accounts with the most stored lose their oldest."""


def reasoning_key(secret: str | None) -> bytes:
    """Return the key of dialects.responses.reasoning that belongs to a secret; empty without one."""
    return b"" if secret is None else hashlib.sha512(secret.encode()).digest()
