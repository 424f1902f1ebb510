"""The context of a dialect's routes: caller, limits of a request, and errors before the first byte."""

import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence, Set
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from dragoman.core import logs
from dragoman.core.addresses import NO_ADDRESSES, parse_address
from dragoman.core.bodies import BodyStore
from dragoman.core.context import Caller, new_request_id
from dragoman.core.errors import (
    BadRequest,
    BodyTooLarge,
    DragomanError,
    ModelNotFound,
    Unauthenticated,
)
from dragoman.core.idempotency import IdempotencyStore
from dragoman.core.models import ServedModel
from dragoman.core.responses import ResponseStore
from dragoman.core.services import QueueService, VisibleModels
from dragoman.dialects.http.codec import EndpointCodec, ErrorRenderer
from dragoman.dialects.http.content_encoding import BodyDecompressor
from dragoman.dialects.http.errors import FAILURE_CONTEXT, FailureContext, error_response

DEFAULT_MAX_BODY_VALUES = 250_000

TIMEOUT_HEADER = "x-request-timeout"
"""The seconds in which the client wants the whole answer."""

SESSION_HEADERS = (b"x-claude-code-session-id", b"x-session-id")
"""The client's names of the conversation that a request belongs to. The first of them counts."""
TRACE_HEADER = b"traceparent"
"""The request's place in a trace (https://www.w3.org/TR/trace-context/)."""

UNRECORDED_TRACE = "dragoman.unrecorded_trace"
"""Where the scope of a request without TRACE_HEADER may have the place in a trace that nobody records."""

_NOTED_HEADERS = frozenset((*SESSION_HEADERS, TRACE_HEADER, TIMEOUT_HEADER.encode()))

_TRACE = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")

_ROUTE = "dragoman.route"
"""Where HeaderRoutes keeps the route that matched in a request's scope."""

_SENT_HEADERS = "dragoman.sent_headers"
"""Where sent_headers keeps the headers in a request's scope."""

_IDENTITY = "identity"
"""The Content-Encoding of a body as it is."""


class SentHeaders(Headers):
    """The headers of a request by name. Starlette's own passes over all of them for each question."""

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        """`raw` are names in lower case and values, as ASGI has them."""
        super().__init__(raw=raw)  # type: ignore[arg-type] # as ASGI has them, which may be no list
        self._first = dict(raw)
        self._has_repeated = len(self._first) < len(raw)
        if self._has_repeated:
            self._first = dict(reversed(raw))

    def belong_to(self, scope: Scope) -> bool:
        """Whether these are the headers of the scope, which an app may have replaced."""
        return self._list is scope["headers"]

    def has_any(self, names: Set[bytes]) -> bool:
        """Whether the request has one of these headers."""
        return not self._first.keys().isdisjoint(names)

    # Mapping's own would ask by an exception for what is not there.
    def get(self, key: str, default: Any = None, /) -> Any:
        value = self._first.get(key.lower().encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def getlist(self, key: str) -> list[str]:
        if self._has_repeated:
            return super().getlist(key)
        value = self._first.get(key.lower().encode("latin-1"))
        return [] if value is None else [value.decode("latin-1")]

    def __getitem__(self, key: str) -> str:
        return self._first[key.lower().encode("latin-1")].decode("latin-1")

    def __contains__(self, key: Any) -> bool:
        return key.lower().encode("latin-1") in self._first


def sent_headers(scope: Scope) -> SentHeaders:
    """Return the headers of a request, which are read once."""
    found: SentHeaders | None = scope.get(_SENT_HEADERS)
    if found is None or not found.belong_to(scope):
        found = scope[_SENT_HEADERS] = SentHeaders(scope["headers"])
    return found


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options that all routes share."""

    max_body_bytes: int
    keep_alive_seconds: float
    """A stream that was silent for this long gets a comment."""
    max_body_values: int = DEFAULT_MAX_BODY_VALUES
    """JSON values that a large body may hold."""
    trusted_proxies: Container[str] = NO_ADDRESSES
    """Addresses whose X-Forwarded-For is trusted."""
    root_path: str = ""
    """Begins the URLs that the server writes, such as `/llm`."""
    v1_dialect: str = "infermatic"
    """The dialect that answers chats, texts and models under `/v1`: infermatic or openai."""
    public_docs: bool = True
    """Whether the documentation is shown without a key."""
    access_log: bool = False
    """Whether each request is logged when it ends."""
    idempotency_store: IdempotencyStore | None = None
    """Stores the responses to requests with an Idempotency-Key; None: such requests are rejected."""
    response_store: ResponseStore | None = None
    """Stores the responses of the Responses API; None: they are not stored."""
    body_store: BodyStore | None = None
    """Keeps the bodies of requests and answers; None: they are not kept."""
    reasoning_key: bytes = b""
    """Encrypts reasoning that clients keep, see dialects.responses.reasoning; empty: it is not encrypted."""
    fetches_images: bool = False
    """Whether images at http(s) addresses are fetched."""
    dialect: str = ""
    """The routes' dialect. It distinguishes equal paths of two dialects, each on a host of its own."""
    codecs: Mapping[str, EndpointCodec] = {}
    """The codecs of all dialects by name, to render the answers of jobs of any dialect."""


def _no_account(_headers: Headers) -> None:
    return None


class RouteContext(msgspec.Struct, frozen=True, kw_only=True):
    """The context that all routes of a dialect share."""

    service: QueueService
    read_key: Callable[[Headers], str | None]
    """Read the API key of a request; None if it has none. Raises Unauthenticated for a malformed header."""
    options: HttpOptions
    id_headers: tuple[str, ...] = ("x-request-id",)
    """Response headers with the request's id."""
    read_account: Callable[[Headers], str | None] = _no_account
    """Read the account that the request selects to pay; None: the key's own."""

    def caller(self, request: Request, request_id: str) -> Caller:
        """Return the caller. Raises Unauthenticated or BadRequest for a malformed header."""
        headers = sent_headers(request.scope)
        key = self.read_key(headers) if self.service.needs_key else None
        address = client_address(request, self.options.trusted_proxies)
        account = self.read_account(headers)
        if not headers.has_any(_NOTED_HEADERS):
            trace = request.scope.get(UNRECORDED_TRACE, "")
            return Caller(request_id=request_id, key=key, address=address, account=account, trace=trace)
        session, trace = _session_and_trace(headers)
        if trace:
            logs.trace_place.set(trace)  # Each request runs in a task of its own.
        return Caller(
            request_id=request_id,
            key=key,
            address=address,
            account=account,
            deadline=_deadline(headers),
            session=session,
            trace=trace or request.scope.get(UNRECORDED_TRACE, ""),
        )


def _deadline(headers: Headers) -> float | None:
    """Return when the time is over that the client gives for the answer."""
    if (sent := headers.get(TIMEOUT_HEADER)) is None:
        return None
    # Not float(): it accepts signs, exponents, infinity and NaN.
    if _SECONDS.fullmatch(sent) is None:
        raise BadRequest(f"{TIMEOUT_HEADER} must be a number of seconds, such as 30 or 2.5")
    return time.monotonic() + float(sent)


def _session_and_trace(headers: Headers) -> tuple[str, str]:
    """Return the conversation that the request belongs to, and its place in a trace; empty: it does not say.

    A malformed place is none, as the document of W3C says.
    """
    found = dict(headers.raw)
    session = next((found[name] for name in SESSION_HEADERS if name in found), b"").decode("latin-1")
    trace = found.get(TRACE_HEADER, b"").decode("latin-1")
    return session, trace if _TRACE.fullmatch(trace) else ""


class HeaderRoutes(BaseRoute):
    """Routes of requests with a certain header only. They precede other routes of the same paths."""

    def __init__(self, header: str, routes: Sequence[BaseRoute]) -> None:
        """`header` is its name in lower case."""
        self.header = header.encode()
        self._routes = routes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return the first match of a route, a full one if there is one."""
        found: tuple[Match, Scope] = (Match.NONE, {})
        if any(name == self.header for name, _ in scope.get("headers", ())):
            for route in self._routes:
                match, child_scope = route.matches(scope)
                if match is Match.FULL:
                    return match, {**child_scope, _ROUTE: route}
                if match is Match.PARTIAL and found[0] is Match.NONE:
                    found = match, {**child_scope, _ROUTE: route}
        return found

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the route that matched."""
        await scope[_ROUTE].handle(scope, receive, send)


def require_model(models: VisibleModels, name: str) -> ServedModel:
    """Return the model with this name or alias. Raises ModelNotFound."""
    found = models.find_model(name)
    if found is None:
        raise ModelNotFound(name)
    return found


async def authenticated(
    request: Request,
    route: RouteContext,
    handler: Callable[[Caller, VisibleModels], Awaitable[Response]],
    errors: ErrorRenderer,
) -> Response:
    """Run a handler of a request that generates nothing, after authentication and with the dialect's errors.

    The handler gets the caller and the models that the caller may see.
    """

    async def handler_with_models(caller: Caller) -> Response:
        return await handler(caller, await route.service.visible_to(caller))

    return await with_error_mapping(request, route, handler_with_models, errors)


async def with_error_mapping(
    request: Request, route: RouteContext, handler: Callable[[Caller], Awaitable[Response]], errors: ErrorRenderer
) -> Response:
    """Run a handler with the dialect's errors. The handler authenticates the caller itself."""
    request_id = new_request_id()
    request.scope[FAILURE_CONTEXT] = FailureContext(errors, request_id)
    try:
        return await handler(route.caller(request, request_id))
    except DragomanError as error:
        return error_response(errors.render(error), {})
    except ClientDisconnect:
        return Response()


def json_response(body: msgspec.Struct | bytes) -> Response:
    """Return a struct, or JSON that is encoded already, as a response."""
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Response(encoded, media_type="application/json")


def bearer_key(headers: Headers) -> str | None:
    """Return the key of `Authorization: Bearer KEY`; None without one. Raises Unauthenticated for another form."""
    value = headers.get("authorization", "").strip()
    scheme, _, key = value.partition(" ")
    if not value:
        return None
    if scheme.lower() != "bearer":
        raise Unauthenticated("malformed").with_key(value)
    return key.strip() or None


def selected_account(headers: Headers) -> str | None:
    """Return the account of `x-selected-account-id`, which pays. Its name may be in UTF-8 or in Latin-1."""
    value: str = headers.get("x-selected-account-id", "")
    with contextlib.suppress(UnicodeDecodeError):
        value = value.encode("latin-1").decode()
    return value.strip() or None


def read_body(request: Request, route: RouteContext) -> Awaitable[bytes]:
    """Read the whole body. Raises what read_limited_body raises."""
    return read_limited_body(request, route.options.max_body_bytes)


async def read_limited_body(request: Request, limit: int) -> bytes:
    """Read the whole body of at most `limit` bytes, decompressed.

    Raises BodyTooLarge, UnsupportedEncoding, MalformedJson for a body that cannot be decompressed, or ClientDisconnect.
    """
    headers = sent_headers(request.scope)
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(limit)
    encoding = ", ".join(headers.getlist("content-encoding")) or _IDENTITY
    decompressor = None if encoding.lower() == _IDENTITY else BodyDecompressor(encoding)
    parts: list[bytes] = []
    size, has_more = 0, True
    while has_more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part, has_more = message.get("body", b""), message.get("more_body", False)
        if decompressor is not None:
            part = decompressor.decompress(part, limit - size)
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit)
        parts.append(part)
    if decompressor is not None:
        decompressor.finish()
    return parts[0] if len(parts) == 1 else b"".join(parts)


def client_address(request: Request, trusted_proxies: Container[str]) -> str:
    """Return the client's address: behind trusted proxies, the one that the outermost of them reports.

    What a proxy reports may have a port. If it is no address, the proxy itself counts as the client.
    """
    address: str = (request.scope.get("client") or ("",))[0]
    if trusted_proxies is NO_ADDRESSES or address not in trusted_proxies:
        return address
    forwarded = [part.strip() for part in ",".join(sent_headers(request.scope).getlist("x-forwarded-for")).split(",")]
    while address in trusted_proxies and forwarded:
        if reported := forwarded.pop():
            parsed = parse_address(reported)
            if parsed is None:
                break
            address = str(parsed)
    return address
