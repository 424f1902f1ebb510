"""Bodies that are too large to be decoded on the event loop, where every other client would wait for it.

A thread decodes them, one at a time and their senders in turn. It shares the interpreter with the event loop, which
gets it back within milliseconds, except from a single call of a library. So the one thing that makes such a call long,
the number of values, is limited before anything is decoded.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from starlette.requests import Request

from dragoman.core.context import Caller
from dragoman.core.errors import BadRequest
from dragoman.core.jobs import StoredRequest
from dragoman.core.turns import Turns
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest, EndpointCodec, ReceivedRequest, restore_request
from dragoman.dialects.http.context import RouteContext, read_body

LARGE_BODY_BYTES = 64 * 1024

_MAX_WAITING_OF_OWNER = 16

_thread = ThreadPoolExecutor(1, "body-decoder")
_turns = Turns(1, _MAX_WAITING_OF_OWNER)

Decoded = TypeVar("Decoded")


class TooManyValues(BadRequest):
    """The body holds more JSON values than allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"Request body holds more than {limit} JSON values")


async def decode_large(
    body: bytes, route: RouteContext, caller: Caller, codec: EndpointCodec, context: DecodeContext
) -> DecodedRequest:
    """Decode a large body off the event loop, after a check of its sender's access. Raises what both raise."""
    await route.service.check_access(caller)
    served = (await route.service.visible_to(caller)).models()
    by_name = {name: model for model in served for name in (model.id, *model.aliases)}
    fixed = context._replace(find_model=by_name.get)  # The thread must not ask the engines.
    return await _in_turn(caller, partial(_check_and_decode, body, route, partial(codec.decode, body, fixed)))


async def receive(request: Request, route: RouteContext, caller: Caller, decode: Callable[[bytes], Decoded]) -> Decoded:
    """Read and decode the body of a request that generates nothing. Raises what read_body and `decode` raise."""
    body = await read_body(request, route)
    if len(body) <= LARGE_BODY_BYTES:
        return decode(body)
    await route.service.check_access(caller)
    return await _in_turn(caller, partial(_check_and_decode, body, route, partial(decode, body)))


async def restore(stored: StoredRequest, route: RouteContext, caller: Caller) -> ReceivedRequest:
    """Do what restore_request does, off the event loop if the body is large."""
    restored = partial(restore_request, stored, route.options.codecs, route.options.reasoning_key)
    return restored() if len(stored.body) <= LARGE_BODY_BYTES else await _in_turn(caller, restored)


def _check_and_decode(body: bytes, route: RouteContext, decode: Callable[[], Decoded]) -> Decoded:
    check_value_count(body, route.options.max_body_values)
    return decode()


async def _in_turn(caller: Caller, work: Callable[[], Decoded]) -> Decoded:
    async with _turns.turn(caller.key_digest or caller.address):
        return await asyncio.get_running_loop().run_in_executor(_thread, work)


def check_value_count(body: bytes, limit: int) -> None:
    """Raise TooManyValues if the JSON in `body` has more than `limit` arrays, objects, and items or members of them.

    Nothing is decoded: text is removed, and what begins or separates values is counted. Of invalid JSON, any count may
    be the result.
    """
    if _count_marks(body) <= limit:
        return
    text = body
    if b"\\" in text:
        text = text.replace(rb"\\", b"").replace(rb"\"", b"")
    # Every other part is inside of quotation marks. Each text is a value, or the name of one.
    if text.count(b'"') > 4 * (limit + 1) or _count_marks(b"".join(text.split(b'"')[::2])) > limit:
        raise TooManyValues(limit)


def _count_marks(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")
