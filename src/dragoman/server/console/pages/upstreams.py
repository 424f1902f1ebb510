"""The upstreams: their states, what they answered, and changes to them."""

import time
from collections.abc import Callable, Mapping
from typing import get_args

import msgspec
from starlette.responses import Response

from dragoman.accounts.administration.audit_log import Administrator
from dragoman.accounts.administration.upstreams import StoredUpstream, list_upstreams
from dragoman.engines.base import Probed, ProbeReport
from dragoman.engines.reported_load import ReportedLoad
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.server.admin import upstream_handlers, wire
from dragoman.server.admin.handlers import AdminRequest
from dragoman.server.console.counts import NO_COUNTS, UpstreamCounts, upstream_counts
from dragoman.server.console.gauges import ReplicaGauges
from dragoman.server.console.page import NO_ACCOUNTS, PageError, PageRequest
from dragoman.server.upstream_settings import UpstreamKindName


class UpstreamLine(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream, as this worker knows it."""

    name: str
    url: str
    """Empty: an engine of this machine."""
    state: str
    returns_in: float | None
    """Seconds until an ejected one is tried again. None: it is not ejected."""
    in_flight: int
    """Requests of this worker."""
    load: ReportedLoad | None
    """What the server reports of the load by others. None: it reports nothing, or was not asked lately."""
    replica: Replica | None
    """None: it was added, and this worker has not connected to it yet."""
    probe: ProbeReport | None
    probed_ago: float | None
    """Seconds."""
    counts: UpstreamCounts
    is_added: bool
    is_draining: bool


class DeploymentLines(msgspec.Struct, frozen=True, kw_only=True):
    """The upstreams of one deployment."""

    name: str
    route: str
    waiting: int
    """Requests of this worker that wait for a place."""
    lines: list[UpstreamLine]


async def show(page: PageRequest) -> Response:
    """Show all deployments with several replicas, or with other servers."""
    gauges = {model.name: model for model in (await page.broadcast.gauges()).models}
    counts = upstream_counts(await page.broadcast.counts())
    stored = {each.name: each for each in await page.read(list_upstreams)} if page.services.has_accounts else {}
    deployments = [
        _lines(deployment, {each.name: each for each in gauges[deployment.name].replicas}, counts, stored)
        for deployment in page.services.catalog.deployments
    ]
    return page.render(
        "upstreams.html",
        deployments=[each for each in deployments if any(line.url for line in each.lines) or len(each.lines) > 1],
        names=[deployment.name for deployment in page.services.catalog.deployments],
        kinds=get_args(UpstreamKindName),
    )


async def add(page: PageRequest) -> Response:
    """Let another server answer for a deployment."""
    fields = await page.fields()
    values = {name: fields.required(name) for name in ("deployment", "url")}
    values |= {name: text for name in ("kind", "model", "key_variable") if (text := fields.text(name)) is not None}
    numbers = {"weight": fields.number("weight")}
    numbers |= {name: fields.integer(name, lowest=0) for name in ("priority", "concurrency")}
    given = {name: number for name, number in numbers.items() if number is not None}
    return await _change(page, upstream_handlers.add, msgspec.convert({**values, **given}, wire.NewUpstream))


async def drain(page: PageRequest) -> Response:
    """Begin no further attempts at an upstream."""
    return await _change(page, upstream_handlers.drain, await _named(page))


async def undrain(page: PageRequest) -> Response:
    """Send an upstream requests again."""
    return await _change(page, upstream_handlers.undrain, await _named(page))


async def probe(page: PageRequest) -> Response:
    """Probe an upstream now, from the worker that shows the page."""
    name = (await page.fields()).required("upstream")
    replicas = (replica for each in page.services.catalog.deployments for replica in each.replicas)
    for replica in replicas:
        if replica.name == name and isinstance(replica.engine, Probed):
            await replica.engine.probe()
            return page.redirect("/upstreams")
    raise PageError(404, f"This worker knows no upstream {name}", "An upstream joins within a second.")


async def remove(page: PageRequest) -> Response:
    """Remove an upstream that was added."""
    return await _change(page, upstream_handlers.remove, await _named(page))


async def _named(page: PageRequest) -> wire.UpstreamName:
    return wire.UpstreamName(upstream=(await page.fields()).required("upstream"))


async def _change(
    page: PageRequest, handler: Callable[[AdminRequest], wire.UpstreamChangeBody], body: msgspec.Struct
) -> Response:
    """Make a change as the admin API makes it, under the viewer's name."""
    thread = page.services.thread
    if thread is None or not page.services.has_accounts:
        raise NO_ACCOUNTS
    request = AdminRequest(
        database=thread.database,
        administrator=Administrator(thread.database, page.viewer.name),
        path={},
        body=body,
        query=None,
        catalog=page.services.catalog,
        server_folder=None,
    )
    await thread.run_slow(handler, request)
    return page.redirect("/upstreams")


def _lines(
    deployment: Deployment,
    gauges: Mapping[str, ReplicaGauges],
    counts: Mapping[tuple[str, str], UpstreamCounts],
    stored: Mapping[str, StoredUpstream],
) -> DeploymentLines:
    router = deployment.router
    lines = []
    for replica in deployment.replicas:
        if _was_added(replica) and replica.name not in stored:
            continue  # It is removed, and this worker follows within a second.
        in_flight = 0 if router is None else router.leases.in_flight(replica.name).requests
        is_known = router is not None and router.health.knows(replica.name)
        own = stored.get(replica.name)
        probe = replica.engine.last_probe if isinstance(replica.engine, Probed) else None
        state = gauges[replica.name].state if replica.name in gauges else "not ready"
        # The change is made, and this worker follows within a second.
        is_draining = own is not None and own.is_draining and own.url == replica.url
        if is_draining != (state == "draining"):
            state = "draining" if is_draining else "ready"
        lines.append(
            UpstreamLine(
                name=replica.name,
                url=replica.url,
                state=state,
                returns_in=router.health.returns_in(replica.name) or None if router is not None and is_known else None,
                in_flight=in_flight,
                load=None if replica.load_reports is None else replica.load_reports.read(),
                replica=replica,
                probe=probe,
                probed_ago=None if probe is None else time.monotonic() - probe.at,
                counts=counts.get((deployment.name, replica.name), NO_COUNTS),
                is_added=own is not None and own.settings is not None,
                is_draining=is_draining,
            )
        )
    known = {line.name for line in lines}
    lines += [_joining(each) for each in stored.values() if _is_new(each, deployment, known)]
    waiting = 0 if router is None else router.leases.waiting
    return DeploymentLines(name=deployment.name, route=deployment.routing.policy, waiting=waiting, lines=lines)


def _was_added(replica: Replica) -> bool:
    """Whether an administrator has added it: those of the settings have numbers."""
    return not replica.name.rpartition("/")[2].isdecimal()


def _is_new(upstream: StoredUpstream, deployment: Deployment, known: set[str]) -> bool:
    return upstream.deployment == deployment.name and upstream.settings is not None and upstream.name not in known


def _joining(upstream: StoredUpstream) -> UpstreamLine:
    return UpstreamLine(
        name=upstream.name,
        url=upstream.url,
        state="joining",
        returns_in=None,
        in_flight=0,
        load=None,
        replica=None,
        probe=None,
        probed_ago=None,
        counts=NO_COUNTS,
        is_added=True,
        is_draining=upstream.is_draining,
    )
