"""Who makes a request: the caller, and the identifiers of requests and keys."""

import hashlib
import os
import time

import msgspec

_RANDOM_DIGITS = 20
_POOL_SIZE = 256

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The fourth digit of the last 64 bits: its first two bits are 10."""

_random_pool: list[str] = []
"""The random parts of future ids, from their version on. Asking the operating system for each would cost a system call
per request, during which other threads may take the interpreter."""

os.register_at_fork(after_in_child=_random_pool.clear)


def new_request_id() -> str:
    """Return 32 hex digits: a UUID of version 7 (RFC 9562), its first 48 bits the milliseconds since 1970.

    Ids that grow with time are cheap to store: they are added at the end of an index, however long it is.
    """
    return f"{time.time_ns() // 1_000_000:012x}{_next_random_part()}"


def _next_random_part() -> str:
    while True:
        try:
            return _random_pool.pop()
        except IndexError:  # Another thread may have taken the last one.
            digits = os.urandom(_RANDOM_DIGITS // 2 * _POOL_SIZE).hex()
            parts = (digits[offset : offset + _RANDOM_DIGITS] for offset in range(0, len(digits), _RANDOM_DIGITS))
            _random_pool.extend(f"7{part[:3]}{_VARIANT[part[3]]}{part[4:19]}" for part in parts)


def key_digest(key: str) -> str:
    """Return the SHA-256 of a key, in hex. 256 random bits cannot be guessed, so that no slow hash is needed."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


ACCOUNT_OWNER_PREFIX = "account "
"""Precedes the account's number in the name of its owner."""


def account_owner(account_id: int) -> str:
    """Return the name under which an account owns requests and jobs."""
    return f"{ACCOUNT_OWNER_PREFIX}{account_id}"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The sender of a request, as far as the request shows. Whether the key is valid is not checked yet."""

    request_id: str
    """32 hex digits, never used before: identifies the request in responses, logs and usage."""
    key: str | None = None
    """The API key; None: none was sent."""
    address: str = ""
    """The client's IP address; empty if it is not known."""
    account: str | None = None
    """The account that is to pay, by its number or name; None: the key's own."""
    deadline: float | None = None
    """When the client wants the whole answer, in seconds of time.monotonic; None: it does not say."""
    session: str = ""
    """What the client calls the conversation that the request belongs to; empty: it does not say."""
    trace: str = ""
    """The request's place in a trace, as the header `traceparent` of W3C's Trace Context has it; empty: none."""
    key_digest: str = ""
    """Computed from the key, once; stands for it everywhere else. Empty without a key."""

    def __post_init__(self) -> None:
        if self.key:
            msgspec.structs.force_setattr(self, "key_digest", key_digest(self.key))

    def __repr__(self) -> str:
        return f"Caller({self.request_id!r})"  # The key must not get into a log.
