"""Read the load of this machine's engines, so that each worker knows what the other workers have sent them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from dragoman.core.background_tasks import repeat
from dragoman.engines.reported_load import ReportedLoad
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.router import Router
from dragoman.server.metrics import engine_statistics

READ_SECONDS = 2.0
"""Between two looks, while the choice between replicas asks for them."""

MAX_AGE_SECONDS = 10.0


@contextlib.asynccontextmanager
async def read_loads(deployments: Sequence[Deployment]) -> AsyncIterator[None]:
    """Read the loads of the deployments' own engines within the block. Other servers report theirs by themselves."""

    async def read() -> None:
        for deployment in deployments:
            await read_load(deployment)

    reading = asyncio.create_task(repeat("reading of the engines' load", read, READ_SECONDS))
    try:
        yield
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def read_load(deployment: Deployment) -> None:
    """Read the loads of a deployment's own engines once, as far as somebody asks for them."""
    if (router := deployment.router) is not None:
        await asyncio.gather(*(_read(replica, router) for replica in deployment.replicas if not replica.is_upstream))


async def _read(replica: Replica, router: Router) -> None:
    if (reports := replica.load_reports) is None or not reports.are_wanted():
        return
    if (found := await engine_statistics(replica.engine)) is None:
        return
    own = router.leases.in_flight(replica.name).requests
    kv_usage = found.kv_cells_used / found.kv_cells_total if found.kv_cells_total else 0.0
    reports.report(ReportedLoad(other_requests=max(0, found.running + found.waiting - own), kv_usage=kv_usage))
