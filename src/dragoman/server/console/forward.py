"""The playground's requests: the ordinary API, with the key of the session instead of the cookie."""

from urllib.parse import quote

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dragoman.server.access import RouteClass, route_class
from dragoman.server.console.viewers import ConsoleViewer

_DROPPED = frozenset({b"cookie", b"authorization", b"x-form-token", b"x-api-key", b"api-key"})


async def forward(api: ASGIApp, viewer: ConsoleViewer, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve `/api/PATH` as the API serves `/PATH` to the viewer's key: authenticated, admitted and charged like any
    other request."""
    path = scope["path"].removeprefix("/api")
    if route_class(path) is not RouteClass.DIALECT:
        await Response("This is no route of a dialect", 404)(scope, receive, send)
        return
    headers = [(name, value) for name, value in scope["headers"] if name not in _DROPPED]
    if viewer.api_key is not None:
        headers.append((b"authorization", b"Bearer " + viewer.api_key.encode()))
    forwarded = {**scope, "path": path, "raw_path": quote(path).encode(), "headers": headers, "app": api}
    await api(forwarded, receive, send)
