"""The durable queue: what waits and runs, what ended, and the webhooks."""

from typing import Any, get_args

import msgspec
from starlette.responses import Response

from dragoman.accounts.database.connections import Database
from dragoman.core.context import account_owner
from dragoman.core.errors import JobNotFound
from dragoman.core.jobs import JobState
from dragoman.jobs.storage.listing import JobEntry, JobFilter, get_job, list_jobs
from dragoman.jobs.storage.reader import JobReader, QueueDepth
from dragoman.server.console.page import NO_OWN_RECORDS, PageRequest
from dragoman.server.console.viewers import ConsoleViewer

_SHOWN = 50

STATES: tuple[JobState, ...] = get_args(JobState)


async def show(page: PageRequest) -> Response:
    """Show the depths and a page of jobs."""
    query = page.query
    if not page.viewer.sees_usage:
        raise NO_OWN_RECORDS
    state = query.text("state")
    before = query.integer("before")
    shown = JobFilter(
        state=None if state is None else msgspec.convert(state, JobState),
        model=query.text("model"),
        account_id=page.viewer.account_id,
    )
    values = await page.read(_read, shown, before, page.viewer)
    return page.render(
        "queue.html",
        **values,
        states=STATES,
        state=state,
        models=[model.id for model in page.services.gateway.models()],
        model=query.text("model"),
        is_enabled=page.services.queue is not None,
    )


async def cancel(page: PageRequest) -> Response:
    """Cancel a job of the viewer's. Tokens that it generated are charged."""
    job = await _own_job(page)
    assert page.services.queue is not None, "_own_job checks it"
    await page.services.queue.cancel(job.id, job.owner)
    return page.redirect("/queue")


async def retry(page: PageRequest) -> Response:
    """Run a failed or cancelled job again."""
    job = await _own_job(page)
    assert page.services.queue is not None, "_own_job checks it"
    await page.services.queue.retry(job.id, hold_cap=page.services.settings.accounts.max_hold_tokens)
    return page.redirect("/queue")


async def _own_job(page: PageRequest) -> JobEntry:
    """Return the job of the path. Raises JobNotFound for one that the viewer may not see."""
    job_id = page.path["job"]
    if page.services.queue is None or not page.viewer.sees_usage:
        raise JobNotFound(job_id)
    job = await page.read(get_job, job_id)
    account_id = page.viewer.account_id
    if not page.viewer.is_operator and (account_id is None or job.owner != account_owner(account_id)):
        raise JobNotFound(job_id)
    return job


def _read(database: Database, shown: JobFilter, before: int | None, viewer: ConsoleViewer) -> dict[str, Any]:
    jobs = list_jobs(database, shown, before=before, limit=_SHOWN + 1)
    depths: dict[str, QueueDepth] = JobReader(database).depths() if viewer.is_operator else {}
    return {
        "jobs": jobs[:_SHOWN],
        "next_before": jobs[_SHOWN - 1].number if len(jobs) > _SHOWN else None,
        "depths": depths,
    }
