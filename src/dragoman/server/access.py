"""Who may use which routes: one table, and the check of all routes that belong to no dialect.

The routes of dialects are checked by the gateway, with the same keys and the same throttle. docs/security.md shows the
table, and tests/conformance/test_access.py tries every route with every kind of key.
"""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dragoman.core.context import Caller, new_request_id
from dragoman.core.errors import DragomanError, KeyUnknown, Unauthenticated
from dragoman.core.models import ServedModel
from dragoman.core.services import VisibleModels
from dragoman.dialects.http.codec import ErrorResponse
from dragoman.dialects.http.context import HttpOptions, bearer_key, client_address
from dragoman.dialects.http.errors import ErrorTable, error_headers, error_response
from dragoman.gateway.auth.static_keys import NO_KEYS, StaticKeyAuthenticator
from dragoman.gateway.gateway import Gateway

_INTERNAL_ERROR = 500


class RouteClass(StrEnum):
    """Routes that the same callers may use."""

    HEALTH = "health"
    DOCUMENTATION = "documentation"
    METRICS = "metrics"
    ADMINISTRATION = "administration"
    DIALECT = "dialect"
    """All routes of dialects. What a key may do there is decided by its account."""


class CallerKind(StrEnum):
    """What a caller's key makes it. Without keys, everybody is a client."""

    ANYONE = "anyone"
    CLIENT = "client"
    ADMINISTRATOR = "administrator"


_KEY_HOLDERS = frozenset({CallerKind.CLIENT, CallerKind.ADMINISTRATOR})
_CLIENTS = frozenset({CallerKind.CLIENT})
_EVERYBODY = frozenset(CallerKind)

WHO_MAY: dict[RouteClass, frozenset[CallerKind]] = {
    RouteClass.HEALTH: _EVERYBODY,
    RouteClass.DOCUMENTATION: _EVERYBODY,
    RouteClass.METRICS: _CLIENTS,
    RouteClass.ADMINISTRATION: frozenset({CallerKind.ADMINISTRATOR}),
    RouteClass.DIALECT: _CLIENTS,
}
"""The table. With `public_docs = false`, documentation is for holders of keys."""

_PREFIXES = {
    "/health": RouteClass.HEALTH,
    "/ready": RouteClass.HEALTH,
    "/docs": RouteClass.DOCUMENTATION,
    "/openapi.json": RouteClass.DOCUMENTATION,
    "/metrics": RouteClass.METRICS,
    "/admin": RouteClass.ADMINISTRATION,
}


def route_class(path: str) -> RouteClass:
    """Return the class of the route with this path."""
    return _PREFIXES.get("/" + path.split("/")[1], RouteClass.DIALECT)


class Viewer(NamedTuple):
    """A caller that may use a route."""

    kind: CallerKind
    label: str = ""
    """The administrator's name."""
    visible: VisibleModels | None = None
    """The models that a client may know of; None: of the others, administrators know all, and anyone knows none."""


class AccessControl:
    """Decides who may use the routes that belong to no dialect."""

    def __init__(self, gateway: Gateway, options: HttpOptions, admin_keys: StaticKeyAuthenticator = NO_KEYS) -> None:
        """The gateway's throttle is used: a client that guesses keys is throttled wherever it tries them."""
        self._gateway = gateway
        self._options = options
        self._admin_keys = admin_keys
        self._who_may = WHO_MAY if options.public_docs else {**WHO_MAY, RouteClass.DOCUMENTATION: _KEY_HOLDERS}

    async def authorize(self, request: Request, requested: RouteClass) -> Viewer:
        """Return the viewer. Raises core.errors, after a delay for those that have sent many wrong keys."""
        allowed = self._who_may[requested]
        if CallerKind.ANYONE in allowed:
            return Viewer(CallerKind.ANYONE)
        caller = self._caller(request)
        if CallerKind.ADMINISTRATOR in allowed and self._admin_keys.is_known(caller.key):
            return Viewer(CallerKind.ADMINISTRATOR, self._admin_keys.label(caller.key))
        if CallerKind.CLIENT in allowed:
            return Viewer(CallerKind.CLIENT, visible=await self._gateway.visible_to(caller))
        error = KeyUnknown().with_key(caller.key) if caller.key else Unauthenticated("missing")
        raise await self._gateway.auth_failures.throttle(caller, error)

    async def respond(
        self, request: Request, requested: RouteClass, answer: Callable[[Viewer], Awaitable[Response]]
    ) -> Response:
        """Answer a caller that may use the route. Others, and errors of `answer`, get the server's own errors."""
        try:
            return await answer(await self.authorize(request, requested))
        except DragomanError as error:
            return error_response(_ERRORS.render(error), {})

    def models_of(self, viewer: Viewer) -> list[ServedModel]:
        """Return the models that the viewer may know of. Without keys, that is all for everybody."""
        if viewer.visible is not None:
            return viewer.visible.models()
        if viewer.kind == CallerKind.ANYONE and self._gateway.needs_key:
            return []
        return self._gateway.models()

    def _caller(self, request: Request) -> Caller:
        needs_key = self._gateway.needs_key or self._admin_keys.needs_key
        return Caller(
            request_id=new_request_id(),
            key=bearer_key(request.headers) if needs_key else None,
            address=client_address(request, self._options.trusted_proxies),
        )


def _detail(message: str) -> bytes:
    return msgspec.json.encode({"detail": message})


class ServerErrors:
    """Implements dialects.http.codec.ErrorRenderer for routes that belong to no dialect."""

    def __init__(self, encode: Callable[[str], bytes] = _detail) -> None:
        """`encode` makes the body of a message."""
        self._table = ErrorTable({})
        self._encode = encode

    def render(self, error: DragomanError) -> ErrorResponse:
        """Return status, body and headers, with the error's own text unless it is internal."""
        rule = self._table.rule(error)
        message = rule.message if rule.status == _INTERNAL_ERROR else error.message
        return ErrorResponse(rule.status, self._encode(message), error_headers(error))


_ERRORS = ServerErrors()
