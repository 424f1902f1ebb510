"""What every request passes until its endpoint: the path, the host and origin, the border for errors, and the routes.

Nothing but the app itself waits, so most parts select the app that is next instead of awaiting it: each further
coroutine would be resumed with every token.
"""

import inspect
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeAlias, TypeVar

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dragoman.core import logs
from dragoman.dialects.http import sse
from dragoman.dialects.http.codec import ErrorCodec
from dragoman.dialects.http.context import HeaderRoutes, sent_headers
from dragoman.dialects.http.errors import FailureContext, InternalError, error_response
from dragoman.server.origins import OriginPolicy, parse_host

_HOST = "dragoman.host"
"""The host name that a request is served under, in its scope."""

_ORIGIN_HEADERS = frozenset({b"origin", b"sec-fetch-site", b"x-forwarded-host"})

_UNLOGGED_PATHS = frozenset({"/health", "/ready", "/metrics"})
"""Programs ask them every few seconds."""

_LOGGED_PATH_CHARACTERS = 256

_SLASHES = re.compile("/+")

_log = logs.get_logger(__name__)


AnyApp = TypeVar("AnyApp", bound=ASGIApp)

SelectApp: TypeAlias = Callable[[Scope], ASGIApp]
"""Selects the app that answers a request."""

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class NewestApp(Generic[AnyApp]):
    """Passes requests to an app that may be replaced. A request that has begun keeps the app that it began with."""

    def __init__(self, app: AnyApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self.app(scope, receive, send)


class WithoutEmptySegments:
    """Serves `/v1/models/` and `/v1//models` as `/v1/models`: base addresses often end with a slash.

    After a redirect, clients would drop the body or the key.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(path := scope["path"]) > 1 and (path.endswith("/") or "//" in path):
            scope = {**scope, "path": _SLASHES.sub("/", path).rstrip("/") or "/"}
        await self._app(scope, receive, send)


class BelowRootPath:
    """Serves `/llm/v1/models` as `/v1/models` if `/llm` is the root path: some proxies remove it, others do not."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{self._root_path}/"):
            scope = {**scope, "path": scope["path"].removeprefix(self._root_path) or "/"}
        return self._app(scope, receive, send)


class HostGuard:
    """Decides under which host a request is served, and whether at all.

    The host is in `scope["dragoman.host"]` then. It is the last one that a trusted proxy reports, or that of the Host
    header, of which a request of HTTP/1.1 has exactly one (RFC 9112, section 3.2).
    """

    def __init__(self, select: SelectApp, policy: OriginPolicy, proxies: Container[str]) -> None:
        self._select = select
        self._policy = policy
        self._proxies = proxies

    def select(self, scope: Scope) -> ASGIApp:
        """Return the app of a request that is served, or the refusal."""
        if scope["type"] != "http":
            return self._select(scope)
        headers = sent_headers(scope)
        hosts = headers.getlist("host")
        origin, site, forwarded = "", "", ""
        if headers.has_any(_ORIGIN_HEADERS):
            origin = " ".join(headers.getlist("origin"))  # Two values are no origin that is served.
            site = "".join(headers.getlist("sec-fetch-site")[-1:]).lower()
            forwarded = ",".join(headers.getlist("x-forwarded-host")).rpartition(",")[2].strip()
        if len(hosts) > 1 or (not hosts and scope.get("http_version") == "1.1"):
            return _refuse(400, "A request has exactly one Host header")
        host = "".join(hosts)
        if forwarded and self._proxies and (scope.get("client") or ("", 0))[0] in self._proxies:
            host = forwarded
        refusal = self._policy.refusal(host, origin, site)
        if refusal is not None:
            return _refuse(*refusal)
        scope[_HOST] = host
        return self._select(scope)


def _refuse(status: int, message: str) -> Response:
    return JSONResponse({"detail": message}, status)


def with_cors(select: SelectApp, policy: OriginPolicy) -> SelectApp:
    """Let pages of the policy's origins read responses. Preflights are answered for every path."""
    if not policy.origins:
        return select

    async def selected(scope: Scope, receive: Receive, send: Send) -> None:
        await select(scope)(scope, receive, send)

    app = CORSMiddleware(
        selected,
        allow_origins=tuple(policy.origins),
        allow_methods=("GET", "POST", "PATCH", "DELETE"),
        allow_headers=("*",),
        expose_headers=("*",),
        allow_private_network=True,
    )
    return lambda _scope: app


def by_host(app: "RoutedApp", apps_by_host: "Mapping[str, RoutedApp]") -> SelectApp:
    """Serve only its dialect's routes on a mapped host name."""
    if not apps_by_host:
        return app.select

    def select(scope: Scope) -> ASGIApp:
        host = parse_host(scope[_HOST]) if scope["type"] == "http" else None
        return (app if host is None else apps_by_host.get(host.name, app)).select(scope)

    return select


class RoutedApp:
    """An app of routes. Starlette's router serves all but paths without parameters, which a dictionary finds.

    Starlette's own app would answer unexpected errors with plain text.
    """

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        lifespan: Callable[[Any], AbstractAsyncContextManager[None]] | None = None,
    ) -> None:
        self._router = ExceptionMiddleware(Router(routes, lifespan=lifespan), {HTTPException: _http_error})
        self._endpoints = {
            (route.path, method): _endpoint_app(route.endpoint) for route, method in _fixed_routes(routes)
        }

    def select(self, scope: Scope) -> ASGIApp:
        """Return the app of the request's endpoint, or Starlette's router."""
        if scope["type"] == "http" and not scope.get("root_path"):
            endpoint = self._endpoints.get((scope["path"], scope["method"]))
            if endpoint is not None:
                return endpoint
        scope["app"] = self  # Otherwise Starlette's router answers unknown paths itself, with plain text.
        return self._router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.select(scope)(scope, receive, send)


def _fixed_routes(routes: Sequence[BaseRoute]) -> Iterator[tuple[Route, str]]:
    """Generate the routes, and their methods, that requests for their path reach whatever else the requests hold."""
    headers = [(route.header, b"") for route in routes if isinstance(route, HeaderRoutes)]
    taken: set[tuple[str, str]] = set()
    before: list[BaseRoute] = []
    """Earlier routes that may take other paths than one, or all methods."""
    for route in routes:
        if type(route) is not Route or route.param_convertors or not route.methods:
            before.append(route)
            continue
        for method in route.methods:
            key = (route.path, method)
            if key not in taken and inspect.iscoroutinefunction(route.endpoint):
                # A request with all headers that routes ask for.
                scope = {"type": "http", "path": route.path, "method": method, "headers": headers}
                if not any(_takes(other, scope) for other in before):
                    yield route, method
            taken.add(key)


def _takes(route: BaseRoute, scope: Scope) -> bool:
    """Report whether Starlette's router takes the route for a request, if no earlier one."""
    if type(route) is Route and route.path_regex.match(scope["path"]) is None:
        return False  # as `matches` would find out in ten times the time
    return route.matches(scope)[0] is Match.FULL


def _endpoint_app(endpoint: Endpoint) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
        except HTTPException as error:
            response = await _http_error(request, error)
        await response(scope, receive, send)

    return app


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "the handler is registered for HTTPException only"
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


class ResponseBorder:
    """The border behind which no error of a request gets, and the place that numbers responses.

    A request that fails unexpectedly is logged with its traceback and answered in its dialect's envelope; a stream that
    has begun ends with the dialect's error. Responses without an `x-request-id` get one.
    With `access_log`, one line is logged for each request when it ends.
    """

    def __init__(self, select: SelectApp, *, access_log: bool = False) -> None:
        self._select = select
        self._access_log = access_log

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._select(scope)(scope, receive, send)
        if self._access_log and scope["path"] not in _UNLOGGED_PATHS:
            return self._log_access(scope, receive, send)
        return self._respond(scope, receive, send)

    async def _log_access(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_at = time.monotonic()
        status: int | None = None
        request_id, sent_bytes = b"", 0

        async def send_and_note(message: Message) -> None:
            nonlocal status, request_id, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = dict(message["headers"]).get(b"x-request-id", b"")
            else:
                sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._respond(scope, receive, send_and_note)
        finally:
            # Neither the query nor any header: they may hold keys.
            _log.info(
                "request_ended",
                method=scope["method"],
                path=scope["path"][:_LOGGED_PATH_CHARACTERS],
                status=status,
                milliseconds=round((time.monotonic() - started_at) * 1000, 1),
                bytes=sent_bytes,
                client=(scope.get("client") or ("",))[0],
                request_id=request_id.decode("latin-1"),
            )

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None
        is_complete = False

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal start, is_complete
            if message["type"] == "http.response.start":
                start = message
                for name, _ in message["headers"]:
                    if name == b"x-request-id":
                        break
                else:
                    headers = [*message["headers"], (b"x-request-id", uuid.uuid4().hex.encode())]
                    message = {**message, "headers": headers}
            else:
                is_complete = not message.get("more_body", False)
            return send(message)

        try:
            await self._select(scope)(scope, receive, send_with_id)
        except ClientDisconnect:
            pass  # no client is left to read an error
        except Exception as error:  # noqa: BLE001 - the border itself
            context = FailureContext.of(scope)
            _log_failure(scope, context, error)
            if start is None:
                await _internal_error(context)(scope, receive, send_with_id)
            elif not is_complete and (frame := _last_frame(context, start)):
                await send_with_id({"type": "http.response.body", "body": frame})
            # Any other response that has begun is cut off: the server closes its connection.


def _log_failure(scope: Scope, context: FailureContext | None, error: Exception) -> None:
    request_id = "" if context is None else context.request_id
    _log.error(
        "route_failed_unexpectedly",
        request_id=request_id,
        method=scope["method"],
        path=scope["path"],
        exc_info=error,
    )


def _internal_error(context: FailureContext | None) -> Response:
    error = InternalError()
    if context is None:
        return JSONResponse({"detail": error.message}, 500)
    return error_response(context.errors.render(error), context.headers)


def _last_frame(context: FailureContext | None, start: Message) -> bytes:
    """Return the error that ends a stream of server-sent events; empty for another response."""
    media_type = dict(start["headers"]).get(b"content-type", b"")
    if context is None or media_type != sse.MEDIA_TYPE.encode() or not isinstance(context.errors, ErrorCodec):
        return b""
    return sse.frame(context.errors.render_event(InternalError()))
