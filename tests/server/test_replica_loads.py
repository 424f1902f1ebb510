"""Each worker learns what the others have sent to the engines of this machine."""

import pytest

from dragoman.core.errors import EngineFailed
from dragoman.engines.base import EngineStatistics
from dragoman.engines.echo import EchoEngine
from dragoman.engines.reported_load import LoadReports, ReportedLoad
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.server.replica_loads import MAX_AGE_SECONDS, read_load


class BusyEngine(EchoEngine):
    """Runs and waits for the sequences of several workers, or does not answer."""

    def __init__(self, statistics: EngineStatistics | None) -> None:
        super().__init__()
        self._statistics = statistics
        self.asked = 0

    async def statistics(self) -> EngineStatistics:
        self.asked += 1
        if self._statistics is None:
            raise EngineFailed("The engine is not running")
        return self._statistics


BUSY = EngineStatistics(running=4, waiting=3, kv_cells_used=512, kv_cells_cached=100, kv_cells_total=2_048)


def deployment_of(*engines: EchoEngine, is_upstream: bool = False) -> tuple[Deployment, list[LoadReports]]:
    reports = [LoadReports(MAX_AGE_SECONDS) for _ in engines]
    replicas = tuple(
        Replica(f"m/{number}", engine, load_reports=each, is_upstream=is_upstream)
        for number, (engine, each) in enumerate(zip(engines, reports, strict=True))
    )
    return Deployment(name="m", replicas=replicas), reports


async def test_the_load_by_other_workers_is_that_of_the_engine_less_the_own() -> None:
    deployment, [first, second] = deployment_of(BusyEngine(BUSY), BusyEngine(None))
    assert deployment.router is not None
    lease = await deployment.router.leases.acquire(lambda: "m/0", 1)
    for each in (first, second):
        assert each.read() is None
    await read_load(deployment)
    assert first.read() == ReportedLoad(other_requests=6, kv_usage=0.25)
    assert second.read() is None, "an engine that does not answer is no failure"
    lease.release()
    await read_load(deployment)
    assert first.read() == ReportedLoad(other_requests=7, kv_usage=0.25)


@pytest.mark.parametrize("engines", [1, 2])
async def test_engines_are_not_asked_while_nobody_chooses_between_them(engines: int) -> None:
    all_engines = [BusyEngine(BUSY) for _ in range(engines)]
    deployment, _ = deployment_of(*all_engines)
    await read_load(deployment)
    assert [engine.asked for engine in all_engines] == [0] * engines


async def test_other_servers_are_left_to_their_own_reports() -> None:
    engine = BusyEngine(BUSY)
    deployment, [reports] = deployment_of(engine, is_upstream=True)
    reports.read()
    await read_load(deployment)
    assert engine.asked == 0
