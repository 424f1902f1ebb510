"""Why a job failed, as it is stored: an error of core that is the same one again when it is read."""

import msgspec

from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    JobTimedOut,
    ModelNotFound,
)


class _Bad(msgspec.Struct, frozen=True, array_like=True, tag="bad"):
    message: str
    parameter: str | None


class _Overflow(msgspec.Struct, frozen=True, array_like=True, tag="overflow"):
    prompt_tokens: int
    context_length: int
    remedy: str
    at_least: bool


class _NotFound(msgspec.Struct, frozen=True, array_like=True, tag="model"):
    model: str


class _TimedOut(msgspec.Struct, frozen=True, array_like=True, tag="timeout"):
    message: str


class _Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    message: str


_StoredError = _Bad | _Overflow | _NotFound | _TimedOut | _Failed
_error_decoder: msgspec.msgpack.Decoder[_StoredError] = msgspec.msgpack.Decoder(_StoredError)


def pack_error(error: DragomanError) -> bytes:
    """To be read by `unpack_error`. What no job fails with is stored as a failure of the engine, in its own words."""
    return msgspec.msgpack.encode(_to_stored(error))


def unpack_error(payload: bytes) -> DragomanError:
    """What `pack_error` was given."""
    match _error_decoder.decode(payload):
        case _Overflow(prompt_tokens, context_length, remedy, at_least):
            return ContextOverflow(prompt_tokens, context_length, remedy, at_least=at_least)
        case _Bad(message, parameter):
            return BadRequest(message, parameter)
        case _NotFound(model):
            return ModelNotFound(model)
        case _TimedOut(message):
            return JobTimedOut(message)
        case _Failed(message):
            return EngineFailed(message)


def _to_stored(error: DragomanError) -> _StoredError:
    match error:
        case ContextOverflow():
            return _Overflow(error.prompt_tokens, error.context_length, error.remedy, error.at_least)
        case BadRequest():
            return _Bad(error.message, error.parameter)
        case ModelNotFound():
            return _NotFound(error.model)
        case JobTimedOut():
            return _TimedOut(error.message)
        case _:
            return _Failed(error.message)
