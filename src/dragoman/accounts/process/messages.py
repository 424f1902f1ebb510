"""The messages between a server process and its ledger process, each in a frame (core.frames).

The server process sends LedgerConfig first, and then one Commit after another. Commits are answered in order.
"""

import pickle
from typing import Any

import msgspec

from dragoman.accounts.ledger.operations import LedgerAnswer, LedgerOperation, LedgerOutcome
from dragoman.core.errors import DragomanError
from dragoman.core.errors_wire import decode_error, encode_error
from dragoman.core.frames import encode_frame


class LedgerConfig(msgspec.Struct, frozen=True, array_like=True):
    """The database of the ledger. Not in the process's arguments: the URL may contain a password."""

    url: str
    busy_seconds: float
    process_id: int
    """The server process's id, to which holds belong."""


class Commit(msgspec.Struct, frozen=True, array_like=True):
    """Do the operations in one transaction, see Ledger.commit. Answered by Committed or DatabaseFailed."""

    operations: list[LedgerOperation]
    is_retry: bool


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """An outcome that is an error of core.errors."""

    payload: bytes
    """Of core.errors_wire."""


class RaisedError(msgspec.Struct, frozen=True, array_like=True, tag="raised"):
    """An outcome that is any other exception."""

    pickled: bytes
    """Safe to unpickle: both ends are this program, and no other process can write to their socket."""


class Committed(msgspec.Struct, frozen=True, array_like=True, tag="committed"):
    """The outcomes, in the order of the operations."""

    outcomes: list[LedgerAnswer | Refused | RaisedError]
    synced: bool
    """Whether they are on the disk. If not, Synced confirms the settlements among them later."""


class DatabaseFailed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """It is unknown whether the transaction was committed."""

    reason: str


class Synced(msgspec.Struct, frozen=True, array_like=True, tag="synced"):
    """The oldest `settlements` committed settlements are on the disk, unless there was an error."""

    settlements: int
    error: str | None


LedgerReply = Committed | DatabaseFailed | Synced

HEARTBEAT = b""
"""The body of a frame that the ledger process sends every second, whether or not the database answers it."""

_encoder = msgspec.msgpack.Encoder()
decode_config = msgspec.msgpack.Decoder(LedgerConfig).decode
decode_commit = msgspec.msgpack.Decoder(Commit).decode
decode_reply = msgspec.msgpack.Decoder(LedgerReply).decode


def encode(message: LedgerConfig | Commit | LedgerReply) -> bytes:
    """Encode a message with its frame."""
    return encode_frame(_encoder.encode(message))


def pack_outcome(outcome: LedgerOutcome) -> LedgerAnswer | Refused | RaisedError:
    """Convert an outcome to its message."""
    match outcome:
        case DragomanError():
            return Refused(encode_error(outcome))
        case Exception():
            return _pickle_error(outcome)
        case _:
            return outcome


def unpack_outcome(outcome: LedgerAnswer | Refused | RaisedError) -> LedgerOutcome:
    """Convert a message to its outcome."""
    match outcome:
        case Refused(payload):
            return decode_error(payload)
        case RaisedError(pickled):
            error: Any = pickle.loads(pickled)
            assert isinstance(error, Exception)
            return error
        case _:
            return outcome


def _pickle_error(error: Exception) -> RaisedError:
    try:
        return RaisedError(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError):
        # An error of the database driver, which is only logged.
        return RaisedError(pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}")))
