"""What administrators change about upstreams, as the workers of servers follow it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from dragoman.accounts.administration.audit_log import Administrator
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.errors import Overloaded, UpstreamUnavailable
from dragoman.core.events import Delta, Event
from dragoman.core.request import GenerationRequest, TextPrompt
from dragoman.engines.upstream.engine import UpstreamEngine
from dragoman.gateway.execution.request_execution import generate
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.gateway.routing.metrics import RoutingMetrics
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.router_options import RouterOptions
from dragoman.server.replicas import connect_added_upstream
from dragoman.server.upstream_changes import AddedUpstream, UpstreamChanges, stored_settings
from tests.support.captured_logs import capture_logs
from tests.support.scripted_engine import ScriptedEngine
from tests.support.scripted_upstream import ScriptedUpstream, hang_after, running_upstream
from tests.support.sqlite_files import create_sqlite_database
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

URL = "http://gpu:8000"


def saying(word: str) -> list[Event]:
    return [Delta(0, word, [1])]


class Worker:
    """A worker whose deployment says "own", and whose added upstreams say their names."""

    def __init__(self, database: Database, *, own: ScriptedEngine | None = None, is_upstream: bool = False) -> None:
        own = own or ScriptedEngine(*[saying("own")] * 50)
        replica = Replica("m/0", own, is_upstream=is_upstream, url="http://old:8000" if is_upstream else "")
        self.deployment = Deployment(name="m", replicas=(replica,), routing=RouterOptions(policy="first"))
        self.engines: dict[str, ScriptedEngine] = {}
        self.changes = UpstreamChanges(
            Catalog([self.deployment]),
            DatabaseThread(database),
            self.connect,
            RoutingMetrics(CollectorRegistry()),
        )

    def connect(self, name: str, upstream: AddedUpstream, deployment: Deployment) -> Replica:
        assert deployment is self.deployment
        self.engines[name] = ScriptedEngine(*[saying(name)] * 50)
        return Replica(name, self.engines[name], is_upstream=True, priority=upstream.priority, url=upstream.url)

    async def ask(self) -> str:
        request = GenerationRequest(model="m", prompt=TextPrompt("a"))
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            events = [event async for event in generate(self.deployment, request)]
        return "".join(event.text for event in events if isinstance(event, Delta))

    @property
    def names(self) -> list[str]:
        return [replica.name for replica in self.deployment.replicas]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(create_sqlite_database(tmp_path / "accounts.db"))
    yield database
    database.close()


@pytest.fixture
def admin(database: Database) -> Administrator:
    return Administrator(database, "ada")


@contextlib.asynccontextmanager
async def followed(*workers: Worker) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker.changes.followed())
        yield


async def test_all_workers_use_an_added_upstream_and_so_do_those_that_start_later(
    database: Database, admin: Administrator
) -> None:
    first, second = Worker(database), Worker(database)
    async with followed(first, second):
        assert await first.ask() == "own"
        admin.add_upstream("m", URL, stored_settings({"url": URL}))
        admin.drain_upstream("m/0", "m", "", is_draining=True)
        for worker in (first, second):
            await worker.changes.follow()
            assert worker.names == ["m/0", "m/a1"]
            assert await worker.ask() == "m/a1"
    restarted = Worker(database)
    async with followed(restarted):
        assert await restarted.ask() == "m/a1"
        admin.drain_upstream("m/0", "m", "", is_draining=False)
        await restarted.changes.follow()
        assert await restarted.ask() == "own"


async def test_a_drained_only_replica_refuses_until_it_is_undrained(database: Database, admin: Administrator) -> None:
    worker = Worker(database, is_upstream=True)
    async with followed(worker):
        admin.drain_upstream("m/0", "m", "http://another:8000", is_draining=True)
        await worker.changes.follow()
        assert await worker.ask() == "own", "the settings have another upstream under this name now"
        admin.drain_upstream("m/0", "m", "http://old:8000", is_draining=True)
        await worker.changes.follow()
        with pytest.raises(Overloaded):
            await worker.ask()
        admin.drain_upstream("m/0", "m", "http://old:8000", is_draining=False)
        await worker.changes.follow()
        assert await worker.ask() == "own"


async def test_a_removed_upstream_gets_no_further_requests_and_finishes_those_that_run(
    database: Database, admin: Administrator
) -> None:
    admin.add_upstream("m", URL, stored_settings({"url": URL}))
    worker = Worker(database, own=ScriptedEngine(*[saying("own")] * 50, ready=False))
    async with followed(worker):
        gate = asyncio.Event()
        engine = worker.engines["m/a1"]
        engine.script[0] = [gate, *saying("late")]
        running = asyncio.create_task(worker.ask())
        while not engine.running:  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0)
        admin.remove_upstream("m/a1")
        await worker.changes.follow()
        assert worker.names == ["m/0"]
        assert await worker.ask() == "own"
        gate.set()
        assert await running == "late"


async def test_an_upstream_that_gets_the_name_of_one_removed_just_before_takes_its_place(
    database: Database, admin: Administrator
) -> None:
    worker = Worker(database)
    async with followed(worker):
        name = admin.add_upstream("m", URL, stored_settings({"url": URL})).name
        await worker.changes.follow()
        admin.remove_upstream(name)
        again = admin.add_upstream("m", "http://new:8000", stored_settings({"url": "http://new:8000"}))
        assert again.name == name
        await worker.changes.follow()
        assert [replica.url for replica in worker.deployment.replicas] == ["", "http://new:8000"]


async def test_what_is_another_servers_or_cannot_be_used_is_left_out(
    database: Database, admin: Administrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UPSTREAM_KEY_GPU", raising=False)
    admin.add_upstream("another", URL, stored_settings({"url": URL}))
    admin.add_upstream("m", URL, stored_settings({"url": URL, "key_variable": "UPSTREAM_KEY_GPU"}))
    deployment = Deployment.of("m", (), ScriptedEngine(saying("own")))
    changes = UpstreamChanges(
        Catalog([deployment]),
        DatabaseThread(database),
        connect_added_upstream,
        RoutingMetrics(CollectorRegistry()),
    )
    with capture_logs() as logs:
        await changes.follow()
    assert len(deployment.replicas) == 1
    assert [(each["event"], each["reason"]) for each in logs] == [
        ("upstream_unusable", "the environment variable UPSTREAM_KEY_GPU is not set")
    ]


def test_an_added_upstream_is_connected_as_one_of_the_settings_is() -> None:
    upstream = AddedUpstream(url=URL, kind="vllm", weight=2.0, priority=1, concurrency=8)
    replica = connect_added_upstream("m/a1", upstream, Deployment.of("m", (), ScriptedEngine()))
    assert isinstance(replica.engine, UpstreamEngine)
    assert (replica.url, replica.weight, replica.priority, replica.concurrency) == (URL, 2.0, 1, 8)
    assert replica.is_upstream


async def test_an_added_upstream_has_time_limits_of_its_own() -> None:
    stored = stored_settings({"url": URL, "kind": "vllm", "timeouts": {"first_token": 0.01}})
    assert stored_settings({"url": URL}) == f'{{"url":"{URL}"}}', "servers of before read what they know"
    async with running_upstream(ScriptedUpstream(hang_after)) as url, asyncio.timeout(TEST_TIMEOUT_SECONDS):
        upstream = msgspec.structs.replace(msgspec.json.decode(stored, type=AddedUpstream), url=url)
        engine = connect_added_upstream("m/a1", upstream, Deployment.of("m", (), ScriptedEngine())).engine
        with pytest.raises(UpstreamUnavailable) as caught:
            await anext(engine.generate(GenerationRequest(model="m", prompt=TextPrompt("a"))))
        await engine.close()
    assert caught.value.fault == "timed_out"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"url": "gpu:8000"}, "URL is http"),
        ({"url": "http://ada:secret@gpu"}, "has no user"),
        ({"url": URL, "key_variable": "HOME"}, "regex"),
        ({"url": URL, "key": "sk-secret"}, "unknown field"),
        ({"url": URL, "concurrency": 0}, "concurrency"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        stored_settings(values)
