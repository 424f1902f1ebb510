"""What clients sent and received, if it is kept: shown on demand, never in lists."""

import msgspec
from starlette.responses import Response

from dragoman.accounts.administration.audit_log import Administrator
from dragoman.accounts.administration.usage_reports import find_request
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.request_bodies import delete_body, find_body
from dragoman.core.bodies import KeptBody
from dragoman.server.console.page import NO_OWN_RECORDS, PageError, PageRequest
from dragoman.server.console.viewers import ConsoleViewer

_NOTHING = PageError(404, "Nothing is kept of this request", "It was deleted, or was never stored.")


async def show(page: PageRequest) -> Response:
    """Show the body and the answer of a request. That an operator has looked is recorded."""
    body = await page.read(_read, page.path["request_id"], page.viewer)
    if body is None:
        raise _NOTHING
    return page.render(
        "body.html", body=body, sent=_pretty(body.request), received=_pretty(body.answer), request_id=body.request_id
    )


async def delete(page: PageRequest) -> Response:
    """Delete what is kept of a request."""
    request_id = page.path["request_id"]
    if not await page.read(_delete, request_id, page.viewer):
        raise _NOTHING
    return page.redirect(f"/requests/{request_id}")


def _read(database: Database, request_id: str, viewer: ConsoleViewer) -> KeptBody | None:
    _require_own(database, request_id, viewer)
    if viewer.is_operator:
        return Administrator(database, viewer.name).read_body(request_id)
    return find_body(database, request_id)


def _delete(database: Database, request_id: str, viewer: ConsoleViewer) -> bool:
    _require_own(database, request_id, viewer)
    if viewer.is_operator:
        return Administrator(database, viewer.name).delete_body(request_id)
    return delete_body(database, request_id)


def _require_own(database: Database, request_id: str, viewer: ConsoleViewer) -> None:
    """Raise PageError for a request that the viewer may not see."""
    if not viewer.sees_usage:
        raise NO_OWN_RECORDS
    if find_request(database, request_id, viewer.account_id) is None:
        raise _NOTHING


def _pretty(body: bytes) -> str:
    """Return a body for people: JSON with line breaks, anything else as it is."""
    try:
        return msgspec.json.format(body, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode(errors="replace")
