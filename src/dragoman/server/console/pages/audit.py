"""The audit log: who changed what."""

from starlette.responses import Response

from dragoman.accounts.administration.audit_log import AuditEntry, list_audit_entries
from dragoman.accounts.database.connections import Database
from dragoman.server.console.page import PageRequest

_SHOWN = 50


async def show(page: PageRequest) -> Response:
    """Show a page of changes, newest first."""
    entries = await page.read(_list, page.query.integer("before")) if page.services.thread is not None else []
    more = page.renderer.url("/audit", before=entries[-1].id) if len(entries) == _SHOWN else None
    return page.render("audit.html", entries=entries, more=more)


def _list(database: Database, before: int | None) -> list[AuditEntry]:
    return list_audit_entries(database, before=before, limit=_SHOWN)
