"""The admin API over HTTP: authentication, decoding of bodies and queries, errors."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.accounts.administration.accounts import AccountNameTaken, AccountNotFound
from dragoman.accounts.administration.audit_log import Administrator
from dragoman.accounts.administration.keys import KeyNotFound
from dragoman.accounts.administration.upstreams import UpstreamNotFound
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.context import new_request_id
from dragoman.core.errors import DragomanError
from dragoman.dialects.http.context import read_limited_body
from dragoman.dialects.http.errors import FAILURE_CONTEXT, FailureContext, error_response
from dragoman.gateway.routing.catalog import Catalog
from dragoman.server.access import AccessControl, RouteClass, ServerErrors
from dragoman.server.admin import wire
from dragoman.server.admin.handlers import AdminRequest
from dragoman.server.admin.route_table import ADMIN_ROUTES, AdminRoute
from dragoman.server.control import ModelChangeRefused
from dragoman.server.reloading import ReloadRefused

MAX_BODY_BYTES = 64 * 1024


def routes(
    thread: DatabaseThread, access: AccessControl, catalog: Catalog, server_folder: Path | None = None
) -> list[BaseRoute]:
    """Return all routes. The label of the administrator's key is recorded with each change.

    `server_folder` is the runtime folder of the server. None: its settings cannot be reloaded.
    """
    return [
        Route(
            route.operation.path.replace("{account}", "{account:path}"),  # Names may have slashes.
            _endpoint(route, thread, access, (catalog, server_folder)),
            methods=[route.operation.method],
        )
        # The longer ones first: an account's deposits are not an account.
        for route in sorted(ADMIN_ROUTES, key=lambda each: -each.operation.path.count("/"))
    ]


def _endpoint(
    route: AdminRoute, thread: DatabaseThread, access: AccessControl, server: tuple[Catalog, Path | None]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        request.scope[FAILURE_CONTEXT] = FailureContext(_ADMIN_ERRORS, new_request_id())
        try:
            viewer = await access.authorize(request, RouteClass.ADMINISTRATION)
            admin_request = AdminRequest(
                database=thread.database,
                administrator=Administrator(thread.database, viewer.label),
                path=request.path_params,
                body=await _body(route, request),
                query=_query(route, request),
                catalog=server[0],
                server_folder=server[1],
            )
            return _json(await thread.run_slow(route.handler, admin_request))
        except DragomanError as error:
            return error_response(_ADMIN_ERRORS.render(error), {})
        except (AccountNotFound, KeyNotFound, UpstreamNotFound) as error:
            return _error(404, str(error))
        except (AccountNameTaken, ReloadRefused, ModelChangeRefused) as error:
            return _error(409, str(error))
        except (msgspec.DecodeError, ValueError) as error:
            # Errors of msgspec, and of the accounts' functions, about the request's values.
            return _error(400, str(error))
        except ClientDisconnect:
            return Response()

    return endpoint


async def _body(route: AdminRoute, request: Request) -> msgspec.Struct | None:
    struct = route.operation.request
    if struct is None:
        return None
    return msgspec.json.decode(await read_limited_body(request, MAX_BODY_BYTES), type=struct)


def _query(route: AdminRoute, request: Request) -> msgspec.Struct | None:
    struct = route.operation.query
    return None if struct is None else msgspec.convert(dict(request.query_params), struct, strict=False)


def _json(body: msgspec.Struct) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(body), headers=headers, media_type="application/json")


def _error(status: int, message: str) -> Response:
    return Response(_error_body(message), status, media_type="application/json")


def _error_body(message: str) -> bytes:
    return msgspec.json.encode(wire.AdminErrorBody(wire.AdminErrorDetail(message)))


_ADMIN_ERRORS = ServerErrors(_error_body)
