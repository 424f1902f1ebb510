"""Stored responses of the Responses API, which later requests retrieve and continue."""

import contextlib
from typing import NamedTuple, Protocol

import msgspec

from dragoman.core.errors import BadRequest, DragomanError

MAX_HISTORY_BYTES = 32 * 1024 * 1024
"""Of the stored responses that a request continues or refers to, with their inputs."""


class ResponseNotFound(DragomanError):
    """No stored response has this id, it was removed, or it belongs to another owner."""

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Response with id '{response_id[:80]}' not found.")
        self.response_id = response_id


class PreviousResponseNotFound(BadRequest):
    """The response that a request continues is not stored, was removed, or belongs to another owner."""

    is_final = False

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Previous response with id '{response_id[:80]}' not found.", "previous_response_id")
        self.response_id = response_id


class HistoryTooLarge(BadRequest):
    """What a request continues or refers to is too large: each response of a conversation may be as large as a body."""

    def __init__(self, parameter: str) -> None:
        limit = f"{MAX_HISTORY_BYTES // 2**20} MiB, or as many JSON values as a request's body may"
        super().__init__(f"The stored responses that this request needs have more than {limit}", parameter)


class ResponseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A response and the items it answers. Those of the responses before it are stored with them."""

    id: str
    """`resp_` and 32 hex digits."""
    previous_id: str | None
    """The response that this one continues."""
    input: bytes
    """Its own input items, a JSON array."""
    response: bytes
    """The response, a JSON object."""

    @property
    def size(self) -> int:
        """Bytes of input and response."""
        return len(self.input) + len(self.response)


class ResponseHistory(NamedTuple):
    """A response and those before it, latest first."""

    records: list[ResponseRecord]
    missing: str | None = None
    """The id of the next one, if that is not stored."""


class ResponseStore(Protocol):
    """The stored responses of all processes. All methods raise Overloaded if the database does not answer."""

    async def store(self, record: ResponseRecord, owner: str) -> None:
        """Store a response. Returns when it survives this process. A response that is stored already stays as it is."""
        ...

    async def find(self, response_id: str, owner: str) -> ResponseRecord | None:
        """Return the owner's response; None: it is not stored. Raises ResponseNotFound if it was deleted."""
        ...

    async def history(self, response_id: str, owner: str) -> ResponseHistory:
        """Return the owner's response and all before it.

        Raises ResponseNotFound if one of them was deleted, and HistoryTooLarge.
        """
        ...

    async def delete(self, response_id: str, owner: str) -> bool:
        """Delete the owner's response, or see to it that it is never stored. False: it was not stored."""
        ...

    def opened(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Within the block, keep the stored responses within their limits."""
        ...
