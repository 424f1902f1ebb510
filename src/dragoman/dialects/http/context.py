"""What comes before and around every answer: who asks, the limits of a request, and errors before the first byte."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from dragoman.core.errors import (
    BodyTooLarge,
    DragomanError,
    Unauthenticated,
)
from dragoman.core.idempotency import IdempotencyStore
from dragoman.core.identifiers import new_request_id
from dragoman.core.jobs import QueueService
from dragoman.core.service import Caller, VisibleModels
from dragoman.dialects.http.codec import EndpointCodec, ErrorRenderer
from dragoman.dialects.http.errors import error_response


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What all exchanges share."""

    max_body_bytes: int
    keep_alive_seconds: float
    """A stream that was silent for so long carries a comment."""
    trusted_proxies: frozenset[str] = frozenset()
    """Addresses whose X-Forwarded-For is believed."""
    idempotency_store: IdempotencyStore | None = None
    """Where answers to requests with an Idempotency-Key are kept; None: nowhere, and such requests are refused."""
    dialect: str = ""
    """Whose exchanges these are: equal paths of two dialects, on hosts of their own, are not equal requests."""
    codecs: Mapping[str, EndpointCodec] = {}
    """Those of all dialects by their names: whichever a job came in by, its answer can be told."""


def _no_account(_headers: Headers) -> None:
    return None


class RouteContext(msgspec.Struct, frozen=True, kw_only=True):
    """What all routes of a dialect share."""

    service: QueueService
    read_key: Callable[[Headers], str | None]
    """The key a request brings; None: none. Raises Unauthenticated when its header has the wrong form."""
    options: HttpOptions
    id_headers: tuple[str, ...] = ("x-request-id",)
    """The headers that carry the request's id."""
    read_account: Callable[[Headers], str | None] = _no_account
    """The account that a request selects to pay; None: the key's own."""

    def caller(self, request: Request, request_id: str) -> Caller:
        """Who asks. Raises Unauthenticated when the key's header has the wrong form."""
        headers = request.headers
        key = self.read_key(headers) if self.service.needs_key else None
        return Caller(
            request_id, key, _client_address(request, self.options.trusted_proxies), self.read_account(headers)
        )


async def authenticated(
    request: Request,
    route: RouteContext,
    handler: Callable[[Caller, VisibleModels], Awaitable[Response]],
    errors: ErrorRenderer,
) -> Response:
    """Answer a request that generates nothing: the key first, and the dialect's own errors.

    `answer` is given who asks and what they may know of.
    """

    async def answer_to(caller: Caller) -> Response:
        return await handler(caller, await route.service.visible_to(caller))

    return await with_error_mapping(request, route, answer_to, errors)


async def with_error_mapping(
    request: Request, route: RouteContext, handler: Callable[[Caller], Awaitable[Response]], errors: ErrorRenderer
) -> Response:
    """Answer a request with the dialect's own errors. `answer` looks at the key itself."""
    try:
        return await handler(route.caller(request, new_request_id()))
    except DragomanError as error:
        return error_response(errors.render(error), {})
    except ClientDisconnect:
        return Response()


def bearer_key(headers: Headers) -> str | None:
    """The key of `Authorization: Bearer KEY`, None without one. Raises Unauthenticated for another form."""
    value = headers.get("authorization", "").strip()
    scheme, _, key = value.partition(" ")
    if not value:
        return None
    if scheme.lower() != "bearer":
        raise Unauthenticated("malformed").with_key(value)
    return key.strip() or None


def selected_account(headers: Headers) -> str | None:
    """The account that is to pay, of `x-selected-account-id`."""
    return headers.get("x-selected-account-id", "").strip() or None


async def read_body(request: Request, route: RouteContext) -> bytes:
    """The whole body. Raises BodyTooLarge, or ClientDisconnect."""
    return await read_limited_body(request, route.options.max_body_bytes)


async def read_limited_body(request: Request, limit: int) -> bytes:
    """The whole body of at most `limit` bytes. Raises BodyTooLarge, or ClientDisconnect."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(limit)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit)
        parts.append(part)
    return b"".join(parts)


def _client_address(request: Request, trusted_proxies: frozenset[str]) -> str:
    """The client's: as far as the addresses of proxies go, the one that the last of them tells."""
    address = request.client.host if request.client is not None else ""
    if address not in trusted_proxies:
        return address
    forwarded = [part.strip() for part in ",".join(request.headers.getlist("x-forwarded-for")).split(",")]
    while address in trusted_proxies and forwarded:
        address = forwarded.pop() or address
    return address
