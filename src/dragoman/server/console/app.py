"""The console's pages as one ASGI app: who may see what, forms, errors, and the headers of every response."""

import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dragoman.accounts.administration.accounts import AccountNameTaken, AccountNotFound
from dragoman.accounts.administration.keys import KeyNotFound
from dragoman.accounts.administration.upstreams import UpstreamNotFound
from dragoman.core.errors import DragomanError, JobNotFound, Overloaded
from dragoman.core.responses import ResponseNotFound
from dragoman.server.console.cookies import CookieJar
from dragoman.server.console.forms import TOKEN_HEADER, check_form_token, check_origin
from dragoman.server.console.forward import forward
from dragoman.server.console.live import Broadcast
from dragoman.server.console.page import PageError, PageRequest
from dragoman.server.console.pages.sign_in import own_path
from dragoman.server.console.rendering import Renderer, static_response
from dragoman.server.console.route_table import CONSOLE_ROUTES, ConsoleRoute
from dragoman.server.console.services import ConsoleServices
from dragoman.server.console.sessions import SessionStore
from dragoman.server.console.viewers import BOTH, ConsoleViewer, Role
from dragoman.server.origins import is_loopback_host, parse_host

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Not no-referrer: browsers would send forms with the origin null.
    "referrer-policy": "same-origin",
}

_SAFE_METHODS = frozenset({"GET", "HEAD"})

_FORWARDING_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")

_THIS_MACHINE = ConsoleViewer(role=Role.OPERATOR, name="local")
"""The viewer on a server without keys, if only people on this machine can be that."""

_ANYBODY = ConsoleViewer(role=Role.HOLDER, name="anybody")
"""Any other viewer on a server without keys: the records of all are not for everybody."""


async def _refuse(_page: PageRequest) -> Response:
    raise PageError(404, "There is no such page", "The menu has all of them.")


_REFUSALS = (PageError, DragomanError, LookupError, ValueError)

_NO_SUCH_PAGE = ConsoleRoute("GET", "/", BOTH, _refuse)


class ConsolePages:
    """Routes requests for pages, after the checks that all pages share."""

    def __init__(self, services: ConsoleServices, api: ASGIApp, is_draining: Callable[[], bool]) -> None:
        """`api` serves the dialects' routes, which the playground calls."""
        self._services = services
        self._api = api
        self._renderer = Renderer(services)
        self._broadcast = Broadcast(services, self._renderer, is_draining)
        self._sessions = (
            None
            if services.thread is None
            else SessionStore(services.thread.database, services.admin_keys, services.keys)
        )
        self._router = Router(
            [Route(each.path, self._endpoint(each), methods=[each.method]) for each in CONSOLE_ROUTES]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        path = scope["path"]
        if path.startswith("/static/"):
            await static_response(path.removeprefix("/static/"))(scope, receive, send_with_headers)
        elif path.startswith("/api/"):
            await self._forward(scope, receive, send_with_headers)
        elif any(route.matches(scope)[0] is Match.FULL for route in self._router.routes):
            await self._router(scope, receive, send_with_headers)
        else:
            response = await self._endpoint(_NO_SUCH_PAGE)(Request(scope, receive))
            await response(scope, receive, send_with_headers)

    def _endpoint(self, route: ConsoleRoute) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            cookies = CookieJar(request, self._services)
            secret = cookies.secret or secrets.token_urlsafe(32)
            page = PageRequest(
                request=request,
                services=self._services,
                renderer=self._renderer,
                sessions=self._sessions,
                broadcast=self._broadcast,
                cookies=cookies,
                secret=secret,
                viewer=_ANYBODY,
            )
            try:
                viewer = await self._viewer(request, cookies)
                if viewer is not None:
                    page.viewer = viewer
                if route.roles is not None and viewer is None:
                    return self._sign_in(page)
                if route.roles is not None and page.viewer.role not in route.roles:
                    raise PageError(403, "This page is for operators", "Sign in with an admin key to see it.")
                if request.method not in _SAFE_METHODS:
                    check_origin(request)
                    check_form_token(await page.sent_token(), secret)
                response = await _answer(route, page)
            except ClientDisconnect:
                return Response()
            except _REFUSALS as error:
                response = page.error(_page_error(error))
            if cookies.secret is None and "set-cookie" not in response.headers:
                cookies.set(response, secret)
            return response

        return endpoint

    async def _viewer(self, request: Request, cookies: CookieJar) -> ConsoleViewer | None:
        if self._services.is_open:
            return _THIS_MACHINE if _is_from_this_machine(request, self._services) else _ANYBODY
        if cookies.secret is None or self._sessions is None or self._services.thread is None:
            return None
        return await self._services.thread.run(self._sessions.find, cookies.secret)

    def _sign_in(self, page: PageRequest) -> Response:
        """Lead to the sign-in page; a script gets 401 instead of a page that it did not ask for."""
        request, root = page.request, self._services.root
        if "hx-request" in request.headers or TOKEN_HEADER in request.headers or request.url.path == "/events":
            return Response("Sign in again", 401)
        if request.method not in _SAFE_METHODS:
            origin = urlsplit(request.headers.get("referer", ""))
            path = origin.path.removeprefix(root) + (f"?{origin.query}" if origin.query else "")
            problem = "Your session has ended, so nothing was changed. Sign in and send the form again."
            return page.render("login.html", status=401, problem=problem, next=own_path(path))
        query = f"?{request.url.query}" if request.url.query else ""
        target = Renderer.url_with(f"{root}/login", next=request.scope["path"] + query)
        return RedirectResponse(target, 303)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        cookies = CookieJar(request, self._services)
        try:
            viewer = await self._viewer(request, cookies)
            if viewer is None or cookies.secret is None:
                await Response("Sign in again", 401)(scope, receive, send)
                return
            check_origin(request)
            check_form_token(request.headers.get(TOKEN_HEADER, ""), cookies.secret)
        except _REFUSALS as error:
            refusal = _page_error(error)
            await Response(refusal.message, refusal.status)(scope, receive, send)
        else:
            await forward(self._api, viewer, scope, receive, send)


async def _answer(route: ConsoleRoute, page: PageRequest) -> Response:
    """Call the route's handler; a form that it refuses is shown again."""
    try:
        return await route.handler(page)
    except _REFUSALS as error:
        refusal = _page_error(error)
        if route.again is None or refusal.status >= 500:
            raise
        fields = page.query if page.request.method in _SAFE_METHODS else await page.fields()
        page.refusal, page.typed = refusal, fields.values()
        return await route.again(page)


def _page_error(error: Exception) -> PageError:
    match error:
        case PageError():
            return error
        case AccountNotFound() | KeyNotFound() | UpstreamNotFound():
            return PageError(404, str(error), "")
        case AccountNameTaken():
            return PageError(409, str(error), "Choose another name.")
        case ResponseNotFound() | JobNotFound():
            return PageError(404, error.message, "")
        case Overloaded():
            return PageError(503, "The server is busy", error.message)
        case DragomanError():
            return PageError(400, error.message, "")
        case msgspec.ValidationError() | ValueError() | LookupError():
            return PageError(400, str(error), "Correct it and try again.")
        case _:
            raise error


def _is_from_this_machine(request: Request, services: ConsoleServices) -> bool:
    """Whether somebody on this machine sent the request. A proxy on this machine passes on the requests of others."""
    if not is_loopback_host(services.settings.host) or any(name in request.headers for name in _FORWARDING_HEADERS):
        return False
    host = parse_host(request.scope.get("dragoman.host") or request.headers.get("host", ""))
    return host is not None and is_loopback_host(host.name)
