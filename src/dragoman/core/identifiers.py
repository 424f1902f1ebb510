"""Ids of requests and digests of API keys."""

import hashlib
import os
import time

_RANDOM_BYTES = 10
_POOL_SIZE = 256

_random_pool: list[bytes] = []
"""Random bytes for future ids. Asking the operating system for each would cost a system call per request, during which
other threads may take the interpreter."""

os.register_at_fork(after_in_child=_random_pool.clear)


def new_request_id() -> str:
    """Return 32 hex digits: a UUID of version 7 (RFC 9562), its first 48 bits the milliseconds since 1970.

    Ids that grow with time are cheap to store: they are added at the end of an index, however long it is.
    """
    milliseconds = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(_next_random_bytes()) >> 6
    return f"{milliseconds << 80 | 7 << 76 | random_bits >> 62 << 64 | 2 << 62 | random_bits & (1 << 62) - 1:032x}"


def _next_random_bytes() -> bytes:
    while True:
        try:
            return _random_pool.pop()
        except IndexError:  # Another thread may have taken the last one.
            random_bytes = os.urandom(_RANDOM_BYTES * _POOL_SIZE)
            _random_pool.extend(
                random_bytes[offset : offset + _RANDOM_BYTES] for offset in range(0, len(random_bytes), _RANDOM_BYTES)
            )


def key_digest(key: str) -> str:
    """Return the SHA-256 of a key, in hex. 256 random bits cannot be guessed, so that no slow hash is needed."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
