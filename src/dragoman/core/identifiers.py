"""Names for requests, and what is kept of keys."""

import hashlib
import os
import time

_RANDOM_BYTES = 10
_POOL_SIZE = 256

_random_pool: list[bytes] = []
"""Random bytes for ids to come. To ask the operating system for each would be a system call a request, and whoever
makes one lets other threads in before it may go on."""

os.register_at_fork(after_in_child=_random_pool.clear)


def new_request_id() -> str:
    """32 hex digits: a UUID of version 7 (RFC 9562), its first 48 bits the milliseconds since 1970.

    Ids that grow with time are cheap to store: they land at the end of an index, however long it is.
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
    """What is kept of a key: its SHA-256, in hex. A slow hash is for secrets that can be guessed; 256 bits cannot."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
