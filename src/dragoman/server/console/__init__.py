"""The console: pages for operators and for holders of API keys, rendered by this worker.

Its code, its templates and Jinja2 are loaded by the first request for a page: no server starts more slowly for it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dragoman.accounts.database.connections import Database
from dragoman.server.console.services import ConsoleServices
from dragoman.server.origins import parse_host
from dragoman.server.settings import Settings


class ShownSettings(NamedTuple):
    """The settings in effect, as operators see them."""

    settings: Settings
    """Without secrets."""
    origins: Mapping[str, str]
    """Their keys → where they were set."""


class ConsoleOptions(NamedTuple):
    """The console of an app."""

    shown: ShownSettings
    database: Database | None
    """Of the accounts, or of the usage records. None: nothing is recorded."""


class Console:
    """Serves the console's pages below its path, and leads `/` there."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services
        self._pages: ASGIApp | None = None
        self._hosts = frozenset(services.settings.console.hosts)
        self.api: ASGIApp | None = None
        """The app whose routes the playground calls, set once it is built."""
        self.is_draining = False
        """Whether the server is about to stop: streams of events end then."""

    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes of the main app. Which people may use which pages is decided by `route_table`."""
        base = self._services.settings.console.base_path
        return [Route("/", self._lead_to_console, methods=["GET"]), Route(base, self), Mount(base, app=self)]

    async def _lead_to_console(self, _request: Request) -> Response:
        return RedirectResponse(self._services.root, 302)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        host = parse_host(scope.get("dragoman.host", ""))
        if self._hosts and (host is None or host.name not in self._hosts):
            await Response("Not Found", 404)(scope, receive, send)
            return
        if self._pages is None:
            from dragoman.server.console.app import ConsolePages

            assert self.api is not None, "set before the first request"
            self._pages = ConsolePages(self._services, self.api, lambda: self.is_draining)
        path = scope["path"].removeprefix(self._services.settings.console.base_path) or "/"
        await self._pages({**scope, "path": path, "root_path": ""}, receive, send)

    def drain(self) -> None:
        """End streams of events, so that the server can stop."""
        self.is_draining = True
