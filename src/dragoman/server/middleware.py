"""What every request passes before it is routed: the path, the host and origin, and the border for errors."""

import re
import time
import uuid
from collections.abc import Container, Mapping
from typing import Generic, TypeVar

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dragoman.core import logs
from dragoman.dialects.http import sse
from dragoman.dialects.http.codec import ErrorCodec
from dragoman.dialects.http.errors import FailureContext, InternalError, error_response
from dragoman.server.origins import OriginPolicy, parse_host

_HOST = "dragoman.host"
"""The host name that a request is served under, in its scope."""

_UNLOGGED_PATHS = frozenset({"/health", "/ready", "/metrics"})
"""Programs ask them every few seconds."""

_LOGGED_PATH_CHARACTERS = 256

_SLASHES = re.compile("/+")

_log = logs.get_logger(__name__)


AnyApp = TypeVar("AnyApp", bound=ASGIApp)


class NewestApp(Generic[AnyApp]):
    """Passes requests to an app that may be replaced. A request that has begun keeps the app that it began with."""

    def __init__(self, app: AnyApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{self._root_path}/"):
            scope = {**scope, "path": scope["path"].removeprefix(self._root_path) or "/"}
        await self._app(scope, receive, send)


class HostGuard:
    """Decides under which host a request is served, and whether at all.

    The host is in `scope["dragoman.host"]` then. It is the last one that a trusted proxy reports, or that of the Host
    header, of which a request of HTTP/1.1 has exactly one (RFC 9112, section 3.2).
    """

    def __init__(self, app: ASGIApp, policy: OriginPolicy, proxies: Container[str]) -> None:
        self._app = app
        self._policy = policy
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        hosts, origin, site, forwarded = [], "", "", ""
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value.decode("latin-1"))
            elif name == b"origin":
                # Two values are no origin that is served.
                origin = f"{origin} {value.decode('latin-1')}".lstrip()
            elif name == b"sec-fetch-site":
                site = value.decode("latin-1").lower()
            elif name == b"x-forwarded-host" and self._proxies:
                forwarded = value.decode("latin-1").rpartition(",")[2].strip()
        if len(hosts) > 1 or (not hosts and scope.get("http_version") == "1.1"):
            await _refuse(400, "A request has exactly one Host header")(scope, receive, send)
            return
        host = "".join(hosts)
        if forwarded and (scope.get("client") or ("", 0))[0] in self._proxies:
            host = forwarded
        refusal = self._policy.refusal(host, origin, site)
        if refusal is not None:
            await _refuse(*refusal)(scope, receive, send)
            return
        scope[_HOST] = host
        await self._app(scope, receive, send)


def _refuse(status: int, message: str) -> Response:
    return JSONResponse({"detail": message}, status)


def with_cors(app: ASGIApp, policy: OriginPolicy) -> ASGIApp:
    """Let pages of the policy's origins read responses. Preflights are answered for every path."""
    if not policy.origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=tuple(policy.origins),
        allow_methods=("GET", "POST", "PATCH", "DELETE"),
        allow_headers=("*",),
        expose_headers=("*",),
        allow_private_network=True,
    )


class ByHost:
    """Serves only its dialect's routes on a mapped host name."""

    def __init__(self, app: ASGIApp, apps_by_host: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._apps_by_host = apps_by_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if self._apps_by_host and scope["type"] == "http" and (host := parse_host(scope[_HOST])) is not None:
            app = self._apps_by_host.get(host.name, app)
        scope["app"] = app  # Otherwise Starlette's router answers unknown paths itself, with plain text.
        await app(scope, receive, send)


class ResponseBorder:
    """The border behind which no error of a request gets, and the place that numbers responses.

    A request that fails unexpectedly is logged with its traceback and answered in its dialect's envelope; a stream that
    has begun ends with the dialect's error. Responses without an `x-request-id` get one.
    With `access_log`, one line is logged for each request when it ends.
    """

    def __init__(self, app: ASGIApp, *, access_log: bool = False) -> None:
        self._app = app
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._access_log and scope["path"] not in _UNLOGGED_PATHS:
            await self._log_access(scope, receive, send)
        else:
            await self._respond(scope, receive, send)

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
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        is_complete = False

        async def send_with_id(message: Message) -> None:
            nonlocal start, is_complete
            if message["type"] == "http.response.start":
                start = message
                if b"x-request-id" not in dict(message["headers"]):
                    headers = [*message["headers"], (b"x-request-id", uuid.uuid4().hex.encode())]
                    message = {**message, "headers": headers}
            else:
                is_complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
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
