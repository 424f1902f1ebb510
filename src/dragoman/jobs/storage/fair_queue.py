"""Decide which of a model's waiting jobs is next: by priority, fair among owners, in order of arrival, none starved.

Priority and aging. A job is due `priority * aging_seconds` after its submission. The priority of the job with the
earliest due time is served next. Of two jobs submitted together, the more urgent one is due earlier. New jobs are due
ever later, so a waiting job is due before all of them at some point: it gains a step of priority every
`aging_seconds`, and takes the other jobs of its priority along.

Fairness. Within a priority every owner has one place in each round, and rounds are served in order. A job gets the
round after the one of its owner's last job, whether that job still waits or has run, but none before the round that is
being served. A job that ends without having run gives its round back. An owner that submits a thousand jobs fills a
thousand rounds with one place each; an owner that comes later with one job gets a place in this round or the next. (If
only waiting jobs counted, two owners with short jobs could take turns in one round for ever.) Within a round jobs are
served in order of arrival. This is start-time fair queueing with jobs of equal weight (Goyal, Vin and Cheng, SIGCOMM
1996).

A requeued job keeps its place. A claim takes two index look-ups and a submission two or three, however many jobs wait.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Dialect, Select, bindparam, literal_column, select

from dragoman.accounts.database.sessions import Session
from dragoman.accounts.database.statements import compile_statement, not_in_list
from dragoman.accounts.database.tables import jobs

# Literals, not parameters: databases choose a partial index by the text of the statement alone.
QUEUED: ColumnElement[str] = literal_column("'queued'")
RUNNING: ColumnElement[str] = literal_column("'running'")
FINISHED: ColumnElement[str] = literal_column("'finished'")
ZERO: ColumnElement[int] = literal_column("0")

NO_ROUND = -1
"""The round of a job that ended without having run: before all others."""


def due_at(submitted_at: int, priority: int, aging_seconds: float) -> int:
    """Return when a job is due, in milliseconds since 1970 like `submitted_at`."""
    return submitted_at + round(priority * aging_seconds * 1000)


def round_for(served: int | None, last: int | None) -> int:
    """Return the round of a new job.

    `served` is the round that is being served or was served last, `last` the round of the owner's last job. None: no
    such round.
    """
    return max(served or 0, 0 if last is None else last + 1)


class FairQueue:
    """The rule as statements for one kind of database."""

    def __init__(self, dialect: Dialect) -> None:
        column = jobs.c
        rounds = select(column.round).where(
            column.model == bindparam("model"), column.priority == bindparam("priority")
        )
        waiting = rounds.where(column.state == QUEUED).order_by(column.round, column.number)
        self.first_waiting = compile_statement(at_most(1, waiting), dialect, ("model", "priority"))
        self.latest_round = compile_statement(
            at_most(1, rounds.order_by(column.round.desc())), dialect, ("model", "priority")
        )
        of_owner = rounds.where(column.owner == bindparam("owner")).order_by(column.round.desc())
        self.latest_of_owner = compile_statement(at_most(1, of_owner), dialect, ("model", "priority", "owner"))
        claimable = not_in_list(dialect, column.number, "left_out")
        self.earliest_due = compile_statement(_earliest_due(claimable), dialect, ("model", "left_out"))
        # Skip jobs that another process is claiming at this moment.
        next_job = at_most(1, waiting.with_only_columns(column.number).where(claimable))
        self.next_in_priority = compile_statement(
            next_job.with_for_update(skip_locked=True), dialect, ("model", "priority", "left_out")
        )

    def next_round(self, session: Session, model: str, priority: int, owner: str) -> int:
        """Return the round for a job that is submitted now."""
        served = session.rows(self.first_waiting, model, priority) or session.rows(self.latest_round, model, priority)
        last = session.rows(self.latest_of_owner, model, priority, owner) if served else []
        return round_for(_scalar_or_none(served), _scalar_or_none(last))

    def next_job(self, session: Session, model: str, left_out: Collection[int] = ()) -> int | None:
        """Lock the job that runs next and return its number. None: no job waits, or others are claiming all that do.

        `left_out`: the numbers of jobs that are passed over.
        """
        numbers = session.list_parameter(left_out)
        priority = _scalar_or_none(session.rows(self.earliest_due, model, numbers))
        if priority is None:
            return None
        return _scalar_or_none(session.rows(self.next_in_priority, model, priority, numbers))


def at_most(count: int, query: Select[Any]) -> Select[Any]:
    """Return the query limited to `count` rows, without a parameter for the count."""
    return query.limit(literal_column(str(count))).offset(ZERO)


def _earliest_due(claimable: ColumnElement[bool]) -> Select[tuple[int]]:
    """Select the priority of the waiting job with the earliest due time."""
    column = jobs.c
    query = select(column.priority).where(column.state == QUEUED, column.model == bindparam("model"), claimable)
    return at_most(1, query.order_by(column.due, column.number))


def _scalar_or_none(rows: list[Any]) -> int | None:
    return rows[0][0] if rows else None
