"""The durable queue: what waits and runs, what ended, one job, and the webhooks."""

from typing import Any, get_args

import msgspec
from starlette.responses import Response

from dragoman.accounts.database.connections import Database
from dragoman.accounts.times import HOUR_MILLISECONDS
from dragoman.core.context import account_owner
from dragoman.core.errors import JobNotFound
from dragoman.core.jobs import LOWEST_PRIORITY, JobState
from dragoman.jobs.service.queue import JobQueue
from dragoman.jobs.storage.listing import JobEntry, JobFilter, get_job, list_jobs
from dragoman.jobs.storage.reader import JobReader, QueueDepth
from dragoman.server.console.names import NO_NAMES, names_of_owners
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
        models=[model.id for model in await page.visible_models()],
        model=query.text("model"),
        is_enabled=page.services.queue is not None,
        lifetime=round(page.services.settings.queue.result_ttl_hours * HOUR_MILLISECONDS),
    )


async def show_job(page: PageRequest) -> Response:
    """Show one job: where it stands, who runs it, what it costs, and its webhook."""
    queue, job = await _own_job(page)
    now = await queue.job(job.id, job.owner)
    names = await page.read(names_of_owners, [job.owner]) if page.viewer.is_operator else NO_NAMES
    return page.render("job.html", job=job, owner=names.owner(job.owner), position=now.position, eta=now.eta)


async def cancel(page: PageRequest) -> Response:
    """Cancel a job of the viewer's. Tokens that it generated are charged."""
    queue, job = await _own_job(page)
    await queue.cancel(job.id, job.owner)
    return page.redirect(f"/queue/{job.id}")


async def retry(page: PageRequest) -> Response:
    """Run a failed or cancelled job again."""
    queue, job = await _own_job(page)
    await queue.retry(job.id, hold_cap=page.services.settings.accounts.max_hold_tokens)
    return page.redirect(f"/queue/{job.id}")


async def prioritize(page: PageRequest) -> Response:
    """Give a job that waits another priority."""
    queue, job = await _own_job(page)
    priority = (await page.fields()).integer("priority", lowest=0)
    if priority is None or priority > LOWEST_PRIORITY:
        raise ValueError(f"The priority must be a whole number from 0, which is first, to {LOWEST_PRIORITY}")
    await queue.prioritize(job.id, priority)
    return page.redirect(f"/queue/{job.id}")


async def send_webhook(page: PageRequest) -> Response:
    """Send the webhook of a job once more."""
    queue, job = await _own_job(page)
    await queue.send_webhook_again(job.id)
    return page.redirect(f"/queue/{job.id}")


async def _own_job(page: PageRequest) -> tuple[JobQueue, JobEntry]:
    """Return the queue and the job of the path. Raises JobNotFound for one that the viewer may not see."""
    job_id, queue = page.path["job"], page.services.queue
    if queue is None or not page.viewer.sees_usage:
        raise JobNotFound(job_id)
    job = await page.read(get_job, job_id)
    account_id = page.viewer.account_id
    if not page.viewer.is_operator and (account_id is None or job.owner != account_owner(account_id)):
        raise JobNotFound(job_id)
    return queue, job


def _read(database: Database, shown: JobFilter, before: int | None, viewer: ConsoleViewer) -> dict[str, Any]:
    jobs = list_jobs(database, shown, before=before, limit=_SHOWN + 1)
    depths: dict[str, QueueDepth] = JobReader(database).depths() if viewer.is_operator else {}
    return {
        "jobs": jobs[:_SHOWN],
        "next_before": jobs[_SHOWN - 1].number if len(jobs) > _SHOWN else None,
        "depths": depths,
        "names": names_of_owners(database, (job.owner for job in jobs)) if viewer.is_operator else NO_NAMES,
    }
