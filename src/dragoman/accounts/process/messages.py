"""What a server process and its ledger process say to each other, a frame (core.frames) each.

First comes Opening, and then one Commit after another, each when the one before was answered.
"""

import pickle
from typing import Any

import msgspec

from dragoman.accounts.ledger.operations import LedgerAnswer, LedgerOperation, LedgerOutcome
from dragoman.core.frames import encode_frame


class LedgerConfig(msgspec.Struct, frozen=True, array_like=True):
    """Which ledger it is. Not in the process's arguments: the URL may hold a password."""

    url: str
    busy_seconds: float
    process_id: int
    """In whose name holds are taken: the server process's."""


class Commit(msgspec.Struct, frozen=True, array_like=True):
    """Do these in one transaction, see Ledger.commit. Answered by Committed or by DatabaseFailed."""

    operations: list[LedgerOperation]
    is_retry: bool


class RaisedError(msgspec.Struct, frozen=True, array_like=True, tag="raised"):
    """An outcome that is an exception."""

    pickled: bytes
    """Either end is this program, and nobody else can write to their socket."""


class Committed(msgspec.Struct, frozen=True, array_like=True, tag="committed"):
    """The outcomes, in the order of the operations."""

    outcomes: list[LedgerAnswer | RaisedError]
    synced: bool
    """Whether they are on the disk; if not, settlements among them are only safe when Synced says so."""


class DatabaseFailed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """Nobody knows whether the transaction was committed."""


class Synced(msgspec.Struct, frozen=True, array_like=True, tag="synced"):
    """The oldest so many settlements that were committed are on the disk, unless there was an error."""

    settlements: int
    error: str | None


LedgerReply = Committed | DatabaseFailed | Synced

_encoder = msgspec.msgpack.Encoder()
decode_config = msgspec.msgpack.Decoder(LedgerConfig).decode
decode_commit = msgspec.msgpack.Decoder(Commit).decode
decode_reply = msgspec.msgpack.Decoder(LedgerReply).decode


def encode(message: LedgerConfig | Commit | LedgerReply) -> bytes:
    """One frame."""
    return encode_frame(_encoder.encode(message))


def pack_outcome(outcome: LedgerOutcome) -> LedgerAnswer | RaisedError:
    """An outcome as it is sent."""
    return _pickle_error(outcome) if isinstance(outcome, Exception) else outcome


def unpack_outcome(outcome: LedgerAnswer | RaisedError) -> LedgerOutcome:
    """The outcome again."""
    if not isinstance(outcome, RaisedError):
        return outcome
    error: Any = pickle.loads(outcome.pickled)
    assert isinstance(error, Exception)
    return error


def _pickle_error(error: Exception) -> RaisedError:
    try:
        return RaisedError(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError):
        # A driver's own, which is only for the log.
        return RaisedError(pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}")))
