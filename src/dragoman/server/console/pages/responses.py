"""Stored responses of the Responses API: how many there are, what they take up, and when they go."""

from starlette.responses import Response

from dragoman.accounts.administration.audit_log import Administrator
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.responses import StoredResponseEntry, delete_response, list_responses
from dragoman.accounts.times import DAY_MILLISECONDS
from dragoman.core.context import account_owner, key_digest
from dragoman.core.responses import ResponseNotFound
from dragoman.server.console.names import Names, names_of_owners
from dragoman.server.console.page import NO_OWN_RECORDS, PageRequest
from dragoman.server.console.viewers import ConsoleViewer

_SHOWN = 50


async def show(page: PageRequest) -> Response:
    """Show a page of stored responses, newest first."""
    entries, names = await page.read(_read, _owner(page.viewer), _before(page.query.text("before")))
    shown = entries[:_SHOWN]
    more = None
    if len(entries) > _SHOWN:
        more = page.renderer.url("/responses", before=f"{shown[-1].stored_at}-{shown[-1].id}")
    return page.render(
        "responses.html",
        entries=[(each, names.owner(each.owner)) for each in shown],
        more=more,
        lifetime=round(page.services.settings.responses.retention_days * DAY_MILLISECONDS),
    )


async def delete(page: PageRequest) -> Response:
    """Delete a response, as its owner or as an operator."""
    response_id, thread = page.path["response"], page.services.thread
    if page.viewer.is_operator and thread is not None:
        deleted = await thread.run_slow(
            Administrator.delete_response, Administrator(thread.database, page.viewer.name), response_id
        )
    else:
        deleted = await page.read(delete_response, response_id, _owner(page.viewer))
    if not deleted:
        raise ResponseNotFound(response_id)
    return page.redirect("/responses")


def _owner(viewer: ConsoleViewer) -> str | None:
    """Return who owns the responses that the viewer sees. None: all. Raises PageError."""
    if viewer.is_operator:
        return None
    if viewer.account_id is not None:
        return account_owner(viewer.account_id)
    if viewer.api_key is None:
        raise NO_OWN_RECORDS
    return key_digest(viewer.api_key)


def _before(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    at, _, response_id = text.partition("-")
    if not (at.isascii() and at.isdecimal() and len(at) < 19 and response_id.isascii()):
        raise ValueError("The link to this page is damaged")
    return int(at), response_id


def _read(
    database: Database, owner: str | None, before: tuple[int, str] | None
) -> tuple[list[StoredResponseEntry], Names]:
    entries = list_responses(database, owner, before=before, limit=_SHOWN + 1)
    return entries, names_of_owners(database, (each.owner for each in entries))
