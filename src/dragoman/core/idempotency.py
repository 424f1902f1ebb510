"""Stored responses: a request that is sent again with its Idempotency-Key is not run again."""

from typing import Protocol

import msgspec


class IdempotentRequest(msgspec.Struct, frozen=True):
    """A request with an Idempotency-Key."""

    owner: str
    """The owner of the key: equal keys of different owners are different. Empty: the server has no API keys."""
    key: str
    fingerprint: str
    """Equal for equal requests only."""


class StoredResponse(msgspec.Struct, frozen=True):
    """A complete response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case."""
    body: bytes
    """Of a stream all its frames, without keep-alive comments."""


class Acquired(msgspec.Struct, frozen=True):
    """The request is the first with its key: the claimant has to run it."""

    token: int
    """Distinguishes this claim from later ones of the same key."""


class InProgress(msgspec.Struct, frozen=True):
    """The same request is running, in this process or in another."""


class RequestMismatch(msgspec.Struct, frozen=True):
    """The key belongs to another request."""


class NotStored(msgspec.Struct, frozen=True):
    """The same request was answered, and its response was too large to be stored."""


IdempotencyState = Acquired | InProgress | RequestMismatch | NotStored | StoredResponse


class IdempotencyStore(Protocol):
    """The stored responses of all processes of the server."""

    @property
    def max_response_bytes(self) -> int:
        """The most bytes of a body that is stored."""
        ...

    async def claim(self, request: IdempotentRequest) -> IdempotencyState:
        """Return the state of the request's key, and acquire it if it is free. Raises Overloaded."""
        ...

    async def store(self, request: IdempotentRequest, claim: Acquired, response: StoredResponse | None) -> None:
        """Store the response; None: it is too large. Does nothing if the claim was lost meanwhile.

        Returns when the response survives this process. If the database does not answer, the claim is given up.
        """
        ...

    def release(self, request: IdempotentRequest, claim: Acquired) -> None:
        """Release the claim in the background unless a response was stored: the next request with the key runs."""
        ...
