"""Follow the upstreams that administrators add, drain and remove: each worker reads them from the database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from dragoman.accounts.administration.upstreams import StoredUpstream, list_upstreams
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core import logs
from dragoman.core.background_tasks import repeat
from dragoman.core.errors import Overloaded
from dragoman.engines.upstream.http_request import UpstreamAddress
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.gateway.routing.metrics import RoutingMetrics
from dragoman.gateway.routing.replica import Replica
from dragoman.server.upstream_settings import UpstreamKindName, UpstreamTimeoutSettings

READ_SECONDS = 1.0
"""Between two looks at the database."""

CLOSE_SECONDS = 30.0
"""Time that the running requests of a removed upstream have to finish."""

_POLL_SECONDS = 0.2

_log = logs.get_logger(__name__)

Connect = Callable[[str, "AddedUpstream", Deployment], Replica]
"""Connects to an upstream of a name, for a deployment. Raises ValueError."""


class AddedUpstream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An upstream that an administrator adds. Stored as JSON, which holds no secret."""

    url: Annotated[str, Meta(min_length=1, max_length=255)]
    """`http://HOST:PORT`, `https://HOST` or `unix:///PATH`, with or without `/v1`."""
    kind: UpstreamKindName | None = None
    """Not set: found by its list of models."""
    model: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    """What it calls the model. Not set: as the deployment is called."""
    key_variable: Annotated[str, Meta(pattern="^UPSTREAM_KEY_[A-Z0-9_]{1,64}$")] | None = None
    """The variable of the server's environment that holds its API key. Another name could be that of any secret."""
    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    priority: Annotated[int, Meta(ge=0, le=1000)] = 0
    concurrency: Annotated[int, Meta(ge=1, le=65536)] = 64
    timeouts: UpstreamTimeoutSettings = UpstreamTimeoutSettings()


def stored_settings(values: Mapping[str, object]) -> str:
    """Return the JSON of an upstream with these values. Raises ValueError for wrong ones."""
    upstream = msgspec.convert(values, AddedUpstream)
    UpstreamAddress.parse(upstream.url)
    return msgspec.json.encode(upstream).decode()


class UpstreamChanges:
    """Keeps the replicas of a worker's deployments as the database says."""

    def __init__(self, catalog: Catalog, thread: DatabaseThread, connect: Connect, metrics: RoutingMetrics) -> None:
        """`metrics` count the attempts of deployments that get a router now."""
        self._deployments = {deployment.name: deployment for deployment in catalog.deployments}
        self._thread = thread
        self._connect = connect
        self._metrics = metrics
        self._seen: list[StoredUpstream] = []
        self._added: dict[str, Replica] = {}
        self._settings: dict[str, str | None] = {}
        """With which each was added, by name: a later one may have the name of one that was removed."""
        self._closing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Follow the changes within the block, from before its first request on if the database answers."""
        with contextlib.suppress(Overloaded):
            await self.follow()
        following = asyncio.create_task(repeat("reading of upstreams", self.follow, READ_SECONDS))
        try:
            yield
        finally:
            following.cancel()
            for task in self._closing:
                task.cancel()
            await asyncio.wait([following, *self._closing])
            for replica in self._added.values():
                await replica.engine.close()

    async def follow(self) -> None:
        """Read the upstreams once, and apply what has changed. Raises Overloaded."""
        stored = await self._thread.run(list_upstreams, self._thread.database)
        if stored == self._seen:
            return
        self._seen = stored
        wanted = {each.name: each for each in stored if each.settings is not None}
        for name in list(self._added):
            if name not in wanted or wanted[name].settings != self._settings[name]:
                self._remove(name)
        for name in wanted.keys() - self._added.keys():
            await self._add(wanted[name])
        draining = {(each.name, each.url) for each in stored if each.is_draining}
        for deployment in self._deployments.values():
            for replica in deployment.replicas:
                self._set_draining(deployment, replica, is_draining=(replica.name, replica.url) in draining)

    async def _add(self, upstream: StoredUpstream) -> None:
        if (deployment := self._deployments.get(upstream.deployment)) is None:
            return  # It is another server's.
        assert upstream.settings is not None, "it was added"
        try:
            settings = msgspec.json.decode(upstream.settings, type=AddedUpstream)
            replica = self._connect(upstream.name, settings, deployment)
        except ValueError as error:
            _log.error("upstream_unusable", upstream=upstream.name, reason=str(error))
            return
        await replica.engine.start()
        self._added[upstream.name] = replica
        self._settings[upstream.name] = upstream.settings
        deployment.add_replica(replica, self._metrics)
        _log.info("upstream_added", upstream=upstream.name)

    def _remove(self, name: str) -> None:
        replica = self._added.pop(name)
        deployment = next(each for each in self._deployments.values() if replica in each.replicas)
        deployment.remove_replica(name)
        closing = asyncio.create_task(_close_when_idle(deployment, replica))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        _log.info("upstream_removed", upstream=name)

    def _set_draining(self, deployment: Deployment, replica: Replica, *, is_draining: bool) -> None:
        if is_draining == deployment.is_draining(replica.name):
            return
        router = deployment.require_router(self._metrics)
        if is_draining:
            router.health.drain(replica.name)
        else:
            router.undrain(replica.name)
        _log.info("upstream_drain_changed", upstream=replica.name, draining=is_draining)


async def _close_when_idle(deployment: Deployment, replica: Replica) -> None:
    """Close the engine of a removed replica when its requests have ended, or after CLOSE_SECONDS."""
    assert deployment.router is not None, "it had several replicas"
    try:
        for _ in range(round(CLOSE_SECONDS / _POLL_SECONDS)):
            if not deployment.router.leases.in_flight(replica.name).requests:
                break
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        await replica.engine.close()
