"""Store the messages to deliver, in the rows of their jobs."""

import random
from collections import Counter
from collections.abc import Collection
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, exists, or_, select, update

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import jobs
from dragoman.core.errors import JobNotFound
from dragoman.jobs.webhooks.message import DeliveryResult, WebhookMessage, ended_message
from dragoman.jobs.webhooks.options import DELIVERY_LEASE_SECONDS, DeliveryLimits, RetrySchedule

WebhookState = Literal["due", "delivered", "gone", "refused", "failed"]
"""The stored state: due for an attempt, or final."""

_CANDIDATE_ROWS = 50
"""Rows read by one query."""

_COLUMNS = (
    jobs.c.number,
    jobs.c.id,
    jobs.c.request_id,
    jobs.c.owner,
    jobs.c.state,
    jobs.c.ended_at,
    jobs.c.webhook,
    jobs.c.webhook_host,
    jobs.c.webhook_attempts,
)


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed delivery attempt."""

    number: int
    owner: str
    host: str
    url: str
    message: WebhookMessage
    attempt: int
    """From 1 on."""
    lease_until: int
    """No other process repeats the attempt before this time, in milliseconds since 1970."""


class NothingToSend(ValueError):
    """The job has no webhook, or has not ended yet."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} has no webhook to send: it was submitted without one, or has not ended")


class WebhookStore:
    """The stored messages. Every method raises DatabaseUnavailable; then nothing is known to have happened."""

    def __init__(
        self, database: Database, schedule: RetrySchedule, limits: DeliveryLimits, root_path: str = ""
    ) -> None:
        """`root_path` begins the URLs in messages."""
        self._root_path = root_path
        self._database = database
        self._schedule = schedule
        self._limits = limits

    def has_due(self) -> bool:
        """Whether there may be messages to claim."""
        with self._database.read() as connection:
            now = self._database.now(connection).wall
            due = (select(jobs.c.number).where(condition) for condition in (_is_due(now), self._is_stranded(now)))
            return bool(connection.execute(select(or_(*map(exists, due)))).scalar_one())

    def claim(self, limit: int, in_flight: Collection[Delivery]) -> list[Delivery]:
        """Claim up to `limit` attempts besides those in flight. They count even if this process dies."""
        hosts = Counter(each.host for each in in_flight)
        owners = Counter(each.owner for each in in_flight)
        claimed: list[Delivery] = []
        with self._database.write() as connection:
            now = self._database.now(connection).wall
            connection.execute(update(jobs).where(self._is_stranded(now)).values(webhook_at=now))
            while len(claimed) < limit:
                rows = connection.execute(self._candidates(now, hosts, owners)).all()
                taken = [row for row in rows if self._reserve_slot(row, hosts, owners)][: limit - len(claimed)]
                if not taken:
                    break
                claimed += [self._claim_row(connection, row, now) for row in taken]
        return claimed

    def store_result(self, delivery: Delivery, result: DeliveryResult) -> None:
        """Store the result of an attempt. Does nothing if another process has made a newer attempt."""
        if result != "failed":
            self._update_row(delivery, webhook_state=result, webhook_at=None)
            return
        pause = self._schedule.delay_after(delivery.attempt, random.random)
        if pause is None:
            self._update_row(delivery, webhook_state="failed", webhook_at=None)
            return
        with self._database.write() as connection:
            next_at = self._database.now(connection).wall + round(pause * 1000)
            self._update_row(delivery, webhook_at=next_at)

    def release(self, delivery: Delivery) -> None:
        """Give back an aborted attempt, which does not count."""
        with self._database.write() as connection:
            now = self._database.now(connection).wall
            self._update_row(delivery, webhook_at=now, webhook_attempts=delivery.attempt - 1)

    def _candidates(self, now: int, hosts: Counter[str], owners: Counter[str]) -> Select[Any]:
        column = jobs.c
        full_hosts = [host for host, count in hosts.items() if count >= self._limits.per_host]
        full_owners = [owner for owner, count in owners.items() if count >= self._limits.per_owner]
        free = column.webhook_host.not_in(full_hosts), column.owner.not_in(full_owners)
        due = select(*_COLUMNS).where(_is_due(now), *free).order_by(column.webhook_at)
        return due.limit(_CANDIDATE_ROWS).with_for_update(skip_locked=True)

    def _reserve_slot(self, row: Any, hosts: Counter[str], owners: Counter[str]) -> bool:
        """Count the row against the limits of its host and owner. False: one of them is reached."""
        if hosts[row.webhook_host] >= self._limits.per_host or owners[row.owner] >= self._limits.per_owner:
            return False
        hosts[row.webhook_host] += 1
        owners[row.owner] += 1
        return True

    def _claim_row(self, connection: Connection, row: Any, now: int) -> Delivery:
        until = now + DELIVERY_LEASE_SECONDS * 1000
        attempt = row.webhook_attempts + 1
        own_row = update(jobs).where(jobs.c.number == row.number)
        connection.execute(own_row.values(webhook_attempts=attempt, webhook_at=until))
        return Delivery(
            number=row.number,
            owner=row.owner,
            host=row.webhook_host,
            url=row.webhook,
            message=ended_message(row.id, row.request_id, row.state, row.ended_at, self._root_path),
            attempt=attempt,
            lease_until=until,
        )

    def _update_row(self, delivery: Delivery, **values: Any) -> None:
        column = jobs.c
        own_row = column.webhook_attempts == delivery.attempt, column.webhook_at == delivery.lease_until
        with self._database.write() as connection:
            connection.execute(update(jobs).where(column.number == delivery.number, *own_row).values(**values))

    def _is_stranded(self, now: int) -> ColumnElement[bool]:
        """Whether the message is due later than any new delay allows, because the clock was set back."""
        longest_delay = max(self._schedule.max_seconds, DELIVERY_LEASE_SECONDS)
        return jobs.c.webhook_at > now + round(longest_delay * 1000)


def send_again(database: Database, job_id: str) -> None:
    """Make the message of an ended job due again, with all its attempts. Raises JobNotFound and NothingToSend."""
    with database.write() as connection:
        query = select(jobs.c.number, jobs.c.webhook_state).where(jobs.c.id == job_id).with_for_update()
        row = connection.execute(query).one_or_none()
        if row is None:
            raise JobNotFound(job_id)
        if row.webhook_state is None:
            raise NothingToSend(job_id)
        again = {"webhook_state": "due", "webhook_attempts": 0, "webhook_at": database.now(connection).wall}
        connection.execute(update(jobs).where(jobs.c.number == row.number).values(**again))


def _is_due(now: int) -> ColumnElement[bool]:
    return jobs.c.webhook_at <= now
