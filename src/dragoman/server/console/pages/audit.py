"""The audit log: who changed what."""

from collections.abc import Iterator, Mapping

import msgspec
from starlette.responses import Response

from dragoman.accounts.administration.audit_log import AuditEntry, list_audit_entries
from dragoman.accounts.database.connections import Database
from dragoman.server.console.page import PageRequest

_SHOWN = 50

_TIMES = frozenset({"valid_from", "expires_at"})
"""Details that are milliseconds since 1970."""


class AuditDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One detail of a change."""

    name: str
    text: str
    at: int | None
    """A time, instead of the text."""


async def show(page: PageRequest) -> Response:
    """Show a page of changes, newest first."""
    entries = await page.read(_list, page.query.integer("before")) if page.services.thread is not None else []
    more = page.renderer.url("/audit", before=entries[-1].id) if len(entries) == _SHOWN else None
    shown = [(each, list(details_of(each.details))) for each in entries]
    return page.render("audit.html", entries=shown, more=more)


def details_of(details: Mapping[str, object]) -> Iterator[AuditDetail]:
    """Yield the details one by one: those in groups without the groups' names, and none that are absent."""
    for name, value in details.items():
        if isinstance(value, Mapping):
            yield from details_of(value)
        elif value is not None and value != [] and value != [details.get("account")]:
            at = value if name in _TIMES and isinstance(value, int) else None
            yield AuditDetail(name=name.replace("_", " "), text=_text(value), at=at)


def _list(database: Database, before: int | None) -> list[AuditEntry]:
    return list_audit_entries(database, before=before, limit=_SHOWN)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
