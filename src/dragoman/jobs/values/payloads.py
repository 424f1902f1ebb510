"""Encode requests and events for storage: msgpack, compressed where that saves space."""

import asyncio
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from dragoman.core.embedding import EmbeddingRequest
from dragoman.core.errors import BadRequest, DragomanError, EngineFailed, UpstreamFailed
from dragoman.core.errors_wire import STORED_ERRORS, decode_error, encode_error
from dragoman.core.events import Event
from dragoman.core.jobs import StoredRequest
from dragoman.core.limits import is_large_task
from dragoman.core.request import GenerationRequest
from dragoman.core.tasks import Task
from dragoman.jobs.values.rows import JobReport, PackedSubmission, Submission

_PLAIN, _DEFLATED = b"\0", b"\1"
"""The first byte of a payload: plain or deflated."""

_MIN_COMPRESSED_BYTES = 128
"""Shorter payloads hardly shrink."""

_SAMPLE_BYTES = 16 * 1024
"""The middle of a payload says whether it shrinks. Vectors hardly do, and trying all of them takes a second."""

_WORTHWHILE = 0.9

_ZLIB_LEVEL = 1
"""Text shrinks to a third, in a tenth of the time of the highest level."""

_LARGE_BYTES = 64 * 1024

_threads = ThreadPoolExecutor(2, "payloads")
"""Not the event loop's own, which wait for other servers: for minutes, where adapters are downloaded."""

Content = TypeVar("Content")

_encode = msgspec.msgpack.Encoder().encode


class _StoredEmbeddings(msgspec.Struct, frozen=True):
    """Tells requests for embeddings from those for answers, which are stored as an array."""

    embeddings: tuple[EmbeddingRequest, ...]


_requests_decoder = msgspec.msgpack.Decoder(tuple[GenerationRequest, ...] | _StoredEmbeddings)
_stored_request_decoder = msgspec.msgpack.Decoder(StoredRequest)
_events_decoder = msgspec.msgpack.Decoder(list[Event])


def pack_submission(submission: Submission) -> PackedSubmission:
    """Encode what is stored of a request, which takes a second for one with large images."""
    draft = submission.draft
    return PackedSubmission(submission, pack_requests(draft.requests), pack_stored_request(draft.stored_request))


async def pack_off_the_loop(submission: Submission) -> PackedSubmission:
    """Return `pack_submission(submission)`, computed in a thread if the request is large."""
    draft = submission.draft
    if len(draft.stored_request.body) <= _LARGE_BYTES and not any(map(is_large_task, draft.requests)):
        return pack_submission(submission)
    return await asyncio.get_running_loop().run_in_executor(_threads, pack_submission, submission)


def pack_requests(requests: tuple[Task, ...]) -> bytes:
    """Encode requests of one kind for `unpack_requests`."""
    embeddings = tuple(request for request in requests if isinstance(request, EmbeddingRequest))
    return _compress(_encode(_StoredEmbeddings(embeddings) if embeddings else requests))


def unpack_requests(payload: bytes) -> tuple[Task, ...]:
    """Decode the result of `pack_requests`."""
    stored = _requests_decoder.decode(_decompress(payload))
    return stored.embeddings if isinstance(stored, _StoredEmbeddings) else stored


def pack_stored_request(stored_request: StoredRequest) -> bytes:
    """Encode a StoredRequest for `unpack_stored_request`."""
    return _compress(_encode(stored_request))


def unpack_stored_request(payload: bytes) -> StoredRequest:
    """Decode the result of `pack_stored_request`."""
    return _stored_request_decoder.decode(_decompress(payload))


def pack_events(events: Sequence[Event]) -> bytes:
    """Encode events for `unpack_events`."""
    return _compress(_encode(events))


def unpack_events(payload: bytes) -> list[Event]:
    """Decode the result of `pack_events`."""
    return _events_decoder.decode(_decompress(payload))


def pack_report(report: JobReport) -> JobReport:
    """Return a report with the payload of its events, whose packing takes long for vectors: call it in a thread."""
    return msgspec.structs.replace(report, payload=pack_events(report.events)) if report.events else report


def pack_error(error: DragomanError) -> bytes:
    """Encode an error for `unpack_error`. Errors that no job fails with become EngineFailed with the same message."""
    if type(error) in STORED_ERRORS:
        return encode_error(error)
    if isinstance(error, BadRequest):
        return encode_error(BadRequest(error.message, error.parameter))
    if isinstance(error, UpstreamFailed):
        return encode_error(UpstreamFailed(error.message, error.fault))
    return encode_error(EngineFailed(error.message))


def unpack_error(payload: bytes) -> DragomanError:
    """Decode the result of `pack_error`."""
    return decode_error(payload)


async def off_the_loop(unpack: Callable[[bytes], Content], payload: bytes) -> Content:
    """Return `unpack(payload)`, computed in a thread if the payload is large: the event loop would stand still."""
    if len(payload) <= _LARGE_BYTES:
        return unpack(payload)
    return await asyncio.get_running_loop().run_in_executor(_threads, unpack, payload)


def _compress(data: bytes) -> bytes:
    if len(data) >= _MIN_COMPRESSED_BYTES and _shrinks(data):
        deflated = zlib.compress(data, _ZLIB_LEVEL)
        if len(deflated) < len(data):
            return _DEFLATED + deflated
    return _PLAIN + data


def _shrinks(data: bytes) -> bool:
    if len(data) <= 2 * _SAMPLE_BYTES:
        return True
    sample = data[len(data) // 2 :][:_SAMPLE_BYTES]
    return len(zlib.compress(sample, _ZLIB_LEVEL)) < _WORTHWHILE * len(sample)


def _decompress(payload: bytes) -> bytes:
    return zlib.decompress(payload[1:]) if payload[:1] == _DEFLATED else payload[1:]
