"""`dragoman jobs`: show queued requests, cancel them, run them again and move them."""

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli.database_access import (
    FAILURE,
    ConfigOption,
    DatabaseOption,
    error_exit,
    load_settings_with_database,
    open_database,
    open_database_of,
)
from dragoman.cli.tables import print_fields, print_table
from dragoman.cli.values import MAX_NUMBER, format_time

if TYPE_CHECKING:
    from dragoman.accounts.database.connections import Database
    from dragoman.jobs.storage.listing import JobEntry
    from dragoman.jobs.storage.store import JobStore
    from dragoman.server.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Show, cancel, repeat and move queued requests.")

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, such as job_0199…")]


class JobStateFilter(StrEnum):
    """States of jobs."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@app.command("list")
def list_all(
    state: Annotated[JobStateFilter | None, typer.Option(help="Only jobs in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    account: Annotated[str | None, typer.Option(help="Only jobs of this account, by its name or number.")] = None,
    before: Annotated[
        int | None, typer.Option(help="Only jobs older than the one with this number.", max=MAX_NUMBER)
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of jobs at most.", min=1, max=MAX_NUMBER)] = 100,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """List jobs, newest first."""
    from dragoman.accounts.administration.accounts import find_account
    from dragoman.jobs.storage.listing import JobFilter, list_jobs

    with open_database(database, config) as db:
        account_id = None if account is None else find_account(db, account).id
        job_filter = JobFilter(None if state is None else state.value, model, account_id)
        jobs = list_jobs(db, job_filter, before=before, limit=limit)
    columns = ("number", "id", "state", "model", "owner", "priority", "submitted", "ended", "tokens")
    right = ("number", "priority", "tokens")
    print_table(
        {name: "right" if name in right else "left" for name in columns},
        (
            (
                each.number,
                each.id,
                each.state,
                each.model,
                _owner(each),
                each.priority,
                format_time(each.submitted_at),
                format_time(each.ended_at),
                each.completion_tokens,
            )
            for each in jobs
        ),
    )


@app.command()
def show(job: JobArgument, database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Show a job: its state, its cost, and why it failed."""
    from dragoman.core.money import format_amount
    from dragoman.jobs.storage.listing import get_job

    with open_database(database, config) as db, _exit_on_refusal():
        entry = get_job(db, job)
    failure = entry.failure
    print_fields(
        {
            "id": entry.id,
            "number": entry.number,
            "state": entry.state,
            "error": None if failure is None else failure.message,
            "model": entry.model,
            "dialect": entry.dialect,
            "owner": _owner(entry),
            "request": entry.request_id,
            "priority": entry.priority,
            "attempts": entry.attempts,
            "submitted": format_time(entry.submitted_at),
            "last attempt": format_time(entry.claimed_at),
            "ended": format_time(entry.ended_at),
            "prompt tokens": entry.prompt_tokens,
            "completion tokens": entry.completion_tokens,
            "held": None if entry.hold is None else format_amount(entry.hold),
            "charge": None if entry.charge is None else format_amount(entry.charge),
            "webhook": entry.webhook_origin,
            "webhook state": entry.webhook_state,
            "webhook attempts": None if entry.webhook_state is None else entry.webhook_attempts,
            "webhook next": format_time(entry.webhook_at),
        }
    )


@app.command()
def cancel(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="The job's id, such as job_0199…")] = None,
    key: Annotated[
        int | None,
        typer.Option(help="Cancel all waiting and running jobs of this key, by its number.", max=MAX_NUMBER),
    ] = None,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Cancel a waiting or running job, or all of a key. Tokens that they generated are charged."""
    if (job is None) == (key is None):
        raise typer.BadParameter("Name either a job or --key", param_hint="JOB")
    settings = load_settings_with_database(database, config)
    with open_database_of(settings) as db, _exit_on_refusal(), _open_job_store(db, settings) as store:
        if key is not None:
            _cancel_all(db, store, key)
        elif job is not None:
            _cancel(db, store, job)


def _cancel_all(database: "Database", store: "JobStore", key: int) -> None:
    from dragoman.accounts.administration.keys import get_key

    get_key(database, key)  # Raises KeyNotFound.
    typer.echo(f"{store.cancel_all(key)} jobs of key {key} are cancelled")


def _cancel(database: "Database", store: "JobStore", job: str) -> None:
    from dragoman.jobs.storage.listing import get_job

    if not store.cancel(get_job(database, job).number):
        raise error_exit(f"Job {job} is {get_job(database, job).state} already", FAILURE)
    typer.echo(f"{job} is cancelled")


@app.command()
def retry(job: JobArgument, database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Run a failed or cancelled job again. It is a new request of the same key. Its stored answer is deleted."""
    settings = load_settings_with_database(database, config)
    with open_database_of(settings) as db, _exit_on_refusal(), _open_job_store(db, settings) as store:
        store.retry(job, hold_cap=settings.accounts.max_hold_tokens)
    typer.echo(f"{job} is queued")


@app.command()
def prioritize(
    job: JobArgument,
    priority: Annotated[int, typer.Argument(help="From 0, which is first, to 255; 128 is what jobs have by default.")],
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Give a waiting job another priority, on any server."""
    from dragoman.core.jobs import LOWEST_PRIORITY

    if not 0 <= priority <= LOWEST_PRIORITY:
        raise typer.BadParameter(f"{priority} is not from 0 to {LOWEST_PRIORITY}", param_hint="PRIORITY")
    settings = load_settings_with_database(database, config)
    with open_database_of(settings) as db, _exit_on_refusal(), _open_job_store(db, settings) as store:
        store.prioritize(job, priority)
    typer.echo(f"{job} has priority {priority}")


@app.command()
def send_webhook(job: JobArgument, database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Send the webhook of an ended job again. It has all its attempts anew."""
    from dragoman.jobs.webhooks.store import send_again

    with open_database(database, config) as db, _exit_on_refusal():
        send_again(db, job)
    typer.echo(f"the webhook of {job} is due")


@contextlib.contextmanager
def _open_job_store(database: "Database", settings: "Settings") -> "Iterator[JobStore]":
    from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
    from dragoman.jobs.storage.store import JobStore
    from dragoman.server.queue_options import queue_options

    store = JobStore(database, queue_options(settings.queue), QUEUE_PROCESS_ID)
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def _exit_on_refusal() -> Iterator[None]:
    from dragoman.core.errors import DragomanError

    try:
        yield
    except DragomanError as error:
        raise error_exit(error.message, FAILURE) from error


def _owner(job: "JobEntry") -> str:
    """Return an account, the beginning of a key's digest, or nothing."""
    from dragoman.core.context import ACCOUNT_OWNER_PREFIX

    return job.owner if job.owner.startswith(ACCOUNT_OWNER_PREFIX) else job.owner[:12]
