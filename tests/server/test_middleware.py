"""Which endpoint answers a request."""

import itertools

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Message, Scope

from dragoman.dialects.http.context import HeaderRoutes
from dragoman.server.middleware import RoutedApp
from tests.support.apps import echo_app

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def scope_of(path: str, method: str, *headers: tuple[bytes, bytes]) -> Scope:
    return {"type": "http", "path": path, "method": method, "headers": [*headers], "query_string": b""}


def first_match(routes: list[BaseRoute], scope: Scope) -> BaseRoute | None:
    return next((route for route in routes if route.matches(scope)[0] is Match.FULL), None)


def test_every_path_reaches_the_endpoint_that_starlette_finds() -> None:
    """Those that a dictionary finds are compared with the routes, whatever headers a request has."""
    routes = echo_app().routes
    app = RoutedApp(routes)
    router = app.select(scope_of("/nowhere", "GET"))
    header_routes = [route for route in routes if isinstance(route, HeaderRoutes)]
    asked = [(), *([(each.header, b"1")] for each in header_routes)]
    assert len(asked) == 2
    found = 0
    for path, method, headers in itertools.product(
        sorted({route.path for route in routes if isinstance(route, Route)}), METHODS, asked
    ):
        selected = app.select(scope_of(path, method, *headers))
        if selected is not router:
            found += 1
            route = first_match(routes, scope_of(path, method, *headers))
            assert isinstance(route, Route)
            assert selected is app.select(scope_of(route.path, method))
            assert route.path == path
            assert "{" not in path
    assert found > 2 * len(METHODS)


def answering(text: str) -> object:
    async def endpoint(_request: Request) -> Response:
        return Response(text)

    return endpoint


async def answer(routes: list[BaseRoute], scope: Scope) -> tuple[int, str]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    await RoutedApp(routes)(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode()


def route(path: str, text: str, *methods: str) -> Route:
    return Route(path, answering(text), methods=methods or ("GET",))  # type: ignore[arg-type] # a coroutine function


@pytest.mark.parametrize(
    ("path", "method", "headers", "expected"),
    [
        ("/a", "GET", [], (200, "first")),
        ("/a", "POST", [], (200, "second")),
        ("/a", "DELETE", [], (405, '{"detail":"Method Not Allowed"}')),
        ("/b/c", "GET", [], (200, "any")),
        ("/b/d", "GET", [], (200, "any")),
        ("/h", "GET", [], (200, "plain")),
        ("/h", "GET", [(b"version", b"1")], (200, "with header")),
        ("/x", "GET", [], (404, '{"detail":"Not Found"}')),
    ],
)
async def test_routes_answer_in_their_order(
    path: str, method: str, headers: list[tuple[bytes, bytes]], expected: tuple[int, str]
) -> None:
    routes: list[BaseRoute] = [
        HeaderRoutes("version", [route("/h", "with header")]),
        route("/a", "first"),
        route("/a", "second", "GET", "POST"),
        route("/b/{rest:path}", "any"),
        route("/b/c", "never"),
        route("/h", "plain"),
    ]
    assert await answer(routes, scope_of(path, method, *headers)) == expected
