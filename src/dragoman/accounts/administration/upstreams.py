"""Upstreams that administrators add and drain while servers run. All servers of the database follow them."""

from typing import Any

import msgspec
from sqlalchemy import Row, delete, insert, select
from sqlalchemy import update as update_of

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import upstreams


class UpstreamNotFound(LookupError):
    """No upstream with this name was added."""


class StoredUpstream(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream that was added, or the state of one of the settings."""

    name: str
    deployment: str
    url: str
    """Empty: an engine of the server's own machine."""
    settings: str | None
    """JSON. None: it is one of the settings."""
    is_draining: bool


def list_upstreams(database: Database) -> list[StoredUpstream]:
    """List all, by name."""
    with database.read() as connection:
        return [_stored(row) for row in connection.execute(select(upstreams).order_by(upstreams.c.name))]


def add_upstream(database: Database, deployment: str, url: str, settings: str) -> StoredUpstream:
    """Add an upstream under the next free name: the deployment's, and `a1`, `a2` and so on."""
    with database.write() as connection:
        query = select(upstreams.c.name).where(upstreams.c.deployment == deployment)
        taken = set(connection.execute(query).scalars())
        name = next(
            name for name in (f"{deployment}/a{number}" for number in range(1, len(taken) + 2)) if name not in taken
        )
        values = {"name": name, "deployment": deployment, "url": url, "settings": settings, "is_draining": 0}
        row = connection.execute(
            insert(upstreams).values(**values, changed_at=database.now(connection).wall).returning(*upstreams.c)
        ).one()
        return _stored(row)


def set_draining(database: Database, name: str, deployment: str, url: str, *, is_draining: bool) -> StoredUpstream:
    """Drain an upstream, or end that. It may be one of the settings, of which nothing was stored before."""
    with database.write() as connection:
        values = {"is_draining": int(is_draining), "changed_at": database.now(connection).wall}
        changed = update_of(upstreams).where(upstreams.c.name == name).values(url=url, **values).returning(*upstreams.c)
        row = connection.execute(changed).one_or_none()
        if row is None:
            new = insert(upstreams).values(name=name, deployment=deployment, url=url, settings=None, **values)
            row = connection.execute(new.returning(*upstreams.c)).one()
        return _stored(row)


def remove_upstream(database: Database, name: str) -> StoredUpstream:
    """Remove an upstream that was added. Raises UpstreamNotFound."""
    with database.write() as connection:
        removed = delete(upstreams).where(upstreams.c.name == name, upstreams.c.settings.is_not(None))
        row = connection.execute(removed.returning(*upstreams.c)).one_or_none()
        if row is None:
            raise UpstreamNotFound(f"{name} was not added: one of the settings is removed from their file, or drained")
        return _stored(row)


def _stored(row: Row[Any]) -> StoredUpstream:
    return StoredUpstream(
        name=row.name,
        deployment=row.deployment,
        url=row.url,
        settings=row.settings,
        is_draining=bool(row.is_draining),
    )
