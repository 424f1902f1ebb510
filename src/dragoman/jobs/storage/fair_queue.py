"""Which of a model's waiting jobs is next: by priority, fair among owners, first come first served, nobody starved.

Priority and ageing. A job is due `priority * ageing_seconds` after its submission. Served next is the priority of the
job that is due first. Of two jobs that came together the more urgent one is due earlier; and since new jobs are due
ever later, one that waits is at some time due before all of them: it gains a step of priority for every
`ageing_seconds`, and takes those along that have its priority.

Fairness. Within a priority every owner has one place in each round, and the rounds are served in order. A job gets the
round after that of its owner's last one, whether that one still waits or not, but none before the round that is being
served: whoever submits a thousand jobs fills a thousand rounds with one place each, and who comes later with one job
gets a place in this round or the next. (If only waiting jobs counted, two owners with short jobs could take turns in
one round for ever.) Within a round jobs are served in the order of their arrival. This is start-time fair queueing,
with jobs that all weigh the same (Goyal, Vin and Cheng, SIGCOMM 1996).

A job keeps its place when it goes back to waiting. All this takes two look-ups in an index for a claim and two or three
for a submission, however many wait.
"""

from typing import Any

from sqlalchemy import ColumnElement, Dialect, Select, bindparam, literal_column, select

from dragoman.accounts.database.connections import Session
from dragoman.accounts.database.statements import compile_statement
from dragoman.accounts.database.tables import jobs

# Not parameters: only of what stands in a statement's text do databases know which partial index it may use.
QUEUED: ColumnElement[str] = literal_column("'queued'")
RUNNING: ColumnElement[str] = literal_column("'running'")
FINISHED: ColumnElement[str] = literal_column("'finished'")
ZERO: ColumnElement[int] = literal_column("0")


def due_at(submitted_at: int, priority: int, ageing_seconds: float) -> int:
    """Milliseconds since 1970, as `submitted_at` is."""
    return submitted_at + round(priority * ageing_seconds * 1000)


def round_for(served: int | None, last: int | None) -> int:
    """The round of a new job. `served` is the one that is being served, or was at last, `last` that of the owner's last
    job; None: there is none."""
    return max(served or 0, 0 if last is None else last + 1)


class FairQueue:
    """The rule, in the statements of one kind of database."""

    def __init__(self, dialect: Dialect) -> None:
        column = jobs.c
        rounds = select(column.round).where(
            column.model == bindparam("model"), column.priority == bindparam("priority")
        )
        waiting = rounds.where(column.state == QUEUED).order_by(column.round, column.number)
        self.first_waiting = compile_statement(at_most(1, waiting), dialect, ("model", "priority"))
        self.latest = compile_statement(
            at_most(1, rounds.order_by(column.round.desc())), dialect, ("model", "priority")
        )
        theirs = rounds.where(column.owner == bindparam("owner")).order_by(column.round.desc())
        self.owners_last = compile_statement(at_most(1, theirs), dialect, ("model", "priority", "owner"))
        self.most_due = compile_statement(_most_due(), dialect, ("model",))
        # Jobs that another process takes just now are passed over.
        taken = at_most(1, waiting.with_only_columns(column.number)).with_for_update(skip_locked=True)
        self.next_in_class = compile_statement(taken, dialect, ("model", "priority"))

    def next_round(self, session: Session, model: str, priority: int, owner: str) -> int:
        """The round for a job that is submitted now."""
        served = session.rows(self.first_waiting, model, priority) or session.rows(self.latest, model, priority)
        last = session.rows(self.owners_last, model, priority, owner) if served else []
        return round_for(_scalar_or_none(served), _scalar_or_none(last))

    def next_job(self, session: Session, model: str) -> int | None:
        """The number of the job that is to run next, locked; None: none waits that nobody else is taking."""
        priority = _scalar_or_none(session.rows(self.most_due, model))
        return None if priority is None else _scalar_or_none(session.rows(self.next_in_class, model, priority))


def at_most(count: int, query: Select[Any]) -> Select[Any]:
    """The query's first rows, without a parameter that would count them."""
    return query.limit(literal_column(str(count))).offset(ZERO)


def _most_due() -> Select[tuple[int]]:
    column = jobs.c
    query = select(column.priority).where(column.state == QUEUED, column.model == bindparam("model"))
    return at_most(1, query.order_by(column.due, column.number))


def _scalar_or_none(rows: list[Any]) -> int | None:
    return rows[0][0] if rows else None
