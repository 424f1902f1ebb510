"""Answers that are kept, so that a request that comes again is answered again instead of run again."""

from typing import Protocol

import msgspec


class IdempotentRequest(msgspec.Struct, frozen=True):
    """A request with an Idempotency-Key."""

    owner: str
    """Whose the key is: another caller's key of the same name is another key. Empty: nobody's."""
    key: str
    fingerprint: str
    """Equal requests have equal ones, others have others."""


class StoredResponse(msgspec.Struct, frozen=True):
    """A whole response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case."""
    body: bytes
    """Of a stream all its frames, without the comments that kept it alive."""


class Acquired(msgspec.Struct, frozen=True):
    """The request is the first with its key: whoever asked is to run it."""

    token: int
    """Tells this claim from later ones with the same key."""


class InProgress(msgspec.Struct, frozen=True):
    """The same request is being run, in this process or in another."""


class RequestMismatch(msgspec.Struct, frozen=True):
    """The key stands for another request."""


class NotStored(msgspec.Struct, frozen=True):
    """The same request was answered, and its answer was too large to be kept."""


IdempotencyState = Acquired | InProgress | RequestMismatch | NotStored | StoredResponse


class IdempotencyStore(Protocol):
    """Where answers are kept, for all processes of the server."""

    @property
    def max_response_bytes(self) -> int:
        """The most bytes of a body that is kept."""
        ...

    async def claim(self, request: IdempotentRequest) -> IdempotencyState:
        """How the request stands now. Raises Overloaded."""
        ...

    async def store(self, request: IdempotentRequest, claim: Acquired, response: StoredResponse | None) -> None:
        """Keep the answer to the request; None: it is too large. Nothing happens when the claim was lost meanwhile.

        Returns when the answer survives this process. Should the database not answer, the claim is given up.
        """
        ...

    def release(self, request: IdempotentRequest, claim: Acquired) -> None:
        """Give the claim up, soon, unless an answer was kept: the next one with the key runs the request."""
        ...
