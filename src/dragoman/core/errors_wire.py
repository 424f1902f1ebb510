"""Errors of the tree as msgpack: between the server's processes and in the jobs table.

An error is the array `[code, *arguments]`: the arguments of its constructor, in order. The codes of errors that jobs
fail with are stored in databases: they never change, and neither do the constructors' parameters, save for new ones
with a default at the end. All other errors live only between processes of one version.
"""

import functools
import inspect
import operator
from typing import Any, get_type_hints

import msgspec

from dragoman.core import errors
from dragoman.core.errors import DragomanError

_STORED_CODES: dict[type[DragomanError], str] = {
    errors.BadRequest: "bad",
    errors.ContextOverflow: "overflow",
    errors.ModelNotFound: "model",
    errors.JobTimedOut: "timeout",
    errors.EngineFailed: "failed",
    errors.UpstreamFailed: "upstream",
}

STORED_ERRORS = tuple(_STORED_CODES)
"""What a job's error is stored as."""


def encode_error(error: DragomanError) -> bytes:
    """Encode an error for `decode_error`. A subclass that is not in the tree is encoded as its base."""
    record = next(_RECORDS[kind] for kind in type(error).__mro__ if kind in _RECORDS)
    return _encoder.encode(record(**{name: getattr(error, name) for name in record.__struct_fields__}))


def decode_error(payload: bytes) -> DragomanError:
    """Return an equal error. Raises msgspec.DecodeError."""
    record = _decoder.decode(payload)
    return _ERRORS[type(record)](**msgspec.structs.asdict(record))


def _record_type(kind: type[DragomanError]) -> type[msgspec.Struct]:
    """The constructor's parameters as a struct."""
    hints = get_type_hints(kind.__init__)
    fields = [
        (name, hints[name]) if parameter.default is parameter.empty else (name, hints[name], parameter.default)
        for name, parameter in inspect.signature(kind).parameters.items()
    ]
    return msgspec.defstruct(kind.__name__, fields, array_like=True, tag=_STORED_CODES.get(kind, kind.__name__))


_RECORDS = {
    kind: _record_type(kind)
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, DragomanError)
}
_ERRORS = {record: kind for kind, record in _RECORDS.items()}
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(functools.reduce(operator.or_, _ERRORS))
