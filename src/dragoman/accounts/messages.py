"""What a server process and its ledger process say to each other, a frame (core.frames) each.

First comes Opening, and then one Commit after another, each when the one before was answered.
"""

import pickle
from typing import Any

import msgspec

from dragoman.accounts.operations import Answer, Operation, Outcome
from dragoman.core.frames import frame


class Opening(msgspec.Struct, frozen=True, array_like=True):
    """Which ledger it is. Not in the process's arguments: the URL may hold a password."""

    url: str
    busy_seconds: float
    process_id: int
    """In whose name holds are taken: the server process's."""


class Commit(msgspec.Struct, frozen=True, array_like=True):
    """Do these in one transaction, see Ledger.commit. Answered by Committed or by DatabaseFailed."""

    operations: list[Operation]
    again: bool


class Raised(msgspec.Struct, frozen=True, array_like=True, tag="raised"):
    """An outcome that is an exception."""

    pickled: bytes
    """Either end is this program, and nobody else can write to their socket."""


class Committed(msgspec.Struct, frozen=True, array_like=True, tag="committed"):
    """The outcomes, in the order of the operations."""

    outcomes: list[Answer | Raised]
    synced: bool
    """Whether they are on the disk; if not, settlements among them are only safe when Synced says so."""


class DatabaseFailed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """Nobody knows whether the transaction was committed."""


class Synced(msgspec.Struct, frozen=True, array_like=True, tag="synced"):
    """The oldest so many settlements that were committed are on the disk, unless there was an error."""

    settlements: int
    error: str | None


Reply = Committed | DatabaseFailed | Synced

_encoder = msgspec.msgpack.Encoder()
decode_opening = msgspec.msgpack.Decoder(Opening).decode
decode_commit = msgspec.msgpack.Decoder(Commit).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode


def encode(message: Opening | Commit | Reply) -> bytes:
    """One frame."""
    return frame(_encoder.encode(message))


def packed(outcome: Outcome) -> Answer | Raised:
    """An outcome as it is sent."""
    return _raised(outcome) if isinstance(outcome, Exception) else outcome


def unpacked(outcome: Answer | Raised) -> Outcome:
    """The outcome again."""
    if not isinstance(outcome, Raised):
        return outcome
    error: Any = pickle.loads(outcome.pickled)
    assert isinstance(error, Exception)
    return error


def _raised(error: Exception) -> Raised:
    try:
        return Raised(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError):
        # A driver's own, which is only for the log.
        return Raised(pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}")))
