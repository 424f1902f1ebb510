"""Answers that are kept, so that a request that comes again is answered again instead of run again."""

from typing import Protocol

import msgspec


class Attempt(msgspec.Struct, frozen=True):
    """A request with an Idempotency-Key."""

    caller: str
    """Whose the key is: another caller's key of the same name is another key. Empty: nobody's."""
    key: str
    fingerprint: str
    """Equal requests have equal ones, others have others."""


class KeptAnswer(msgspec.Struct, frozen=True):
    """A whole response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case."""
    body: bytes
    """Of a stream all its frames, without the comments that kept it alive."""


class Claimed(msgspec.Struct, frozen=True):
    """The request is the first with its key: whoever asked is to run it."""

    token: int
    """Tells this claim from later ones with the same key."""


class Running(msgspec.Struct, frozen=True):
    """The same request is being run, in this process or in another."""


class Different(msgspec.Struct, frozen=True):
    """The key stands for another request."""


class Unkept(msgspec.Struct, frozen=True):
    """The same request was answered, and its answer was too large to be kept."""


Standing = Claimed | Running | Different | Unkept | KeptAnswer


class AnswerBook(Protocol):
    """Where answers are kept, for all processes of the server."""

    @property
    def largest_answer(self) -> int:
        """The most bytes of a body that is kept."""
        ...

    async def claim(self, attempt: Attempt) -> Standing:
        """How the request stands now. Raises Overloaded."""
        ...

    async def keep(self, attempt: Attempt, claim: Claimed, answer: KeptAnswer | None) -> None:
        """Keep the answer to the request; None: it is too large. Nothing happens when the claim was lost meanwhile.

        Returns when the answer survives this process. Should the database not answer, the claim is given up.
        """
        ...

    def release(self, attempt: Attempt, claim: Claimed) -> None:
        """Give the claim up, soon, unless an answer was kept: the next one with the key runs the request."""
        ...
