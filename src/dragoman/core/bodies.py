"""Bodies of requests and answers that are kept for the console, if the settings say so."""

from typing import NamedTuple, Protocol

import msgspec

MAX_BODY_BYTES = 256 * 1024
"""Bytes of a request, and of an answer, that are kept; the rest is cut off."""


class KeptBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a client sent and received. Headers are not among it."""

    request_id: str
    request: bytes
    answer: bytes
    """The document, or the frames of the stream."""
    is_cut: bool
    """Whether one of them was longer than MAX_BODY_BYTES."""


class BodyRules(NamedTuple):
    """What is kept, and for how long."""

    days: float = 0.0
    """0: nothing is kept, and what was kept before is deleted."""
    max_bytes: int = 0
    """Of all together. Above it, the oldest are deleted."""
    excepted_accounts: tuple[str, ...] = ()
    """Names of accounts whose bodies are not kept."""


class BodyStore(Protocol):
    """Keeps bodies."""

    def keep(self, body: KeptBody) -> None:
        """Keep a body soon. Never blocks and never fails; bodies that come too fast are not kept."""
        ...
