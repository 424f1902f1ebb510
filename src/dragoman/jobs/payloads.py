"""What is stored of requests and answers: msgpack, compressed where that pays."""

import zlib
from collections.abc import Sequence

import msgspec

from dragoman.core.events import Event
from dragoman.core.jobs import AnswerForm
from dragoman.core.request import GenerationRequest

_PLAIN, _DEFLATED = b"\0", b"\1"
"""The first byte says which the rest is."""

_WORTH_TRYING = 128
"""Bytes; shorter ones hardly shrink."""

_LEVEL = 1
"""Of zlib: text shrinks to a third for a tenth of the time of the highest one."""

_encode = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(tuple[GenerationRequest, ...])
_form = msgspec.msgpack.Decoder(AnswerForm)
_events = msgspec.msgpack.Decoder(list[Event])


def pack_requests(requests: tuple[GenerationRequest, ...]) -> bytes:
    """To be read by `unpack_requests`."""
    return _packed(_encode(requests))


def unpack_requests(payload: bytes) -> tuple[GenerationRequest, ...]:
    """What `pack_requests` was given."""
    return _requests.decode(_unpacked(payload))


def pack_form(form: AnswerForm) -> bytes:
    """To be read by `unpack_form`."""
    return _packed(_encode(form))


def unpack_form(payload: bytes) -> AnswerForm:
    """What `pack_form` was given."""
    return _form.decode(_unpacked(payload))


def pack_events(events: Sequence[Event]) -> bytes:
    """To be read by `unpack_events`."""
    return _packed(_encode(events))


def unpack_events(payload: bytes) -> list[Event]:
    """What `pack_events` was given."""
    return _events.decode(_unpacked(payload))


def _packed(data: bytes) -> bytes:
    if len(data) >= _WORTH_TRYING:
        deflated = zlib.compress(data, _LEVEL)
        if len(deflated) < len(data):
            return _DEFLATED + deflated
    return _PLAIN + data


def _unpacked(payload: bytes) -> bytes:
    return zlib.decompress(payload[1:]) if payload[:1] == _DEFLATED else payload[1:]
