"""The handlers of the admin API's upstreams. Changes are stored, and each worker follows them within a second."""

import msgspec

from dragoman.accounts.administration.upstreams import StoredUpstream, UpstreamNotFound, list_upstreams
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.server.admin import wire
from dragoman.server.admin.handlers import AdminRequest
from dragoman.server.upstream_changes import stored_settings


def list_states(request: AdminRequest) -> wire.UpstreamList:
    return wire.UpstreamList(
        data=[
            _body(deployment, replica) for deployment in request.catalog.deployments for replica in deployment.replicas
        ]
    )


def add(request: AdminRequest) -> wire.UpstreamChangeBody:
    payload = request.payload(wire.NewUpstream)
    if payload.deployment not in {deployment.name for deployment in request.catalog.deployments}:
        raise UpstreamNotFound(f"There is no deployment {payload.deployment!r}")
    values = msgspec.structs.asdict(payload)
    return _change(request.administrator.add_upstream(values.pop("deployment"), payload.url, stored_settings(values)))


def drain(request: AdminRequest) -> wire.UpstreamChangeBody:
    return _set_draining(request, is_draining=True)


def undrain(request: AdminRequest) -> wire.UpstreamChangeBody:
    return _set_draining(request, is_draining=False)


def remove(request: AdminRequest) -> wire.UpstreamChangeBody:
    return _change(request.administrator.remove_upstream(request.payload(wire.UpstreamName).upstream))


def _set_draining(request: AdminRequest, *, is_draining: bool) -> wire.UpstreamChangeBody:
    name = request.payload(wire.UpstreamName).upstream
    deployment, url = _find(request, name)
    return _change(request.administrator.drain_upstream(name, deployment, url, is_draining=is_draining))


def _find(request: AdminRequest, name: str) -> tuple[str, str]:
    """Return the deployment and URL of a replica of this worker, or of one that it has not read yet."""
    for deployment in request.catalog.deployments:
        for replica in deployment.replicas:
            if replica.name == name:
                return deployment.name, replica.url
    for stored in list_upstreams(request.database):
        if stored.name == name and stored.settings is not None:
            return stored.deployment, stored.url
    raise UpstreamNotFound(f"There is no upstream {name!r}")


def _change(stored: StoredUpstream) -> wire.UpstreamChangeBody:
    return wire.UpstreamChangeBody(
        upstream=stored.name, deployment=stored.deployment, url=stored.url or None, draining=stored.is_draining
    )


def _body(deployment: Deployment, replica: Replica) -> wire.UpstreamBody:
    router = deployment.router
    is_known = router is not None and router.health.knows(replica.name)
    reported = None if replica.load_reports is None else replica.load_reports.read()
    requests, tokens = (0, 0) if router is None else router.leases.in_flight(replica.name)
    return wire.UpstreamBody(
        upstream=replica.name,
        deployment=deployment.name,
        url=replica.url or None,
        ready=replica.engine.ready,
        state=router.health.state(replica.name) if router is not None and is_known else "closed",
        returns_in_seconds=router.health.returns_in(replica.name) if router is not None and is_known else 0.0,
        paused_seconds=0.0 if router is None else router.paused_for(replica.name),
        other_requests=None if reported is None else reported.other_requests,
        requests_in_flight=requests,
        tokens_in_flight=tokens,
        weight=replica.weight,
        priority=replica.priority,
        concurrency=replica.concurrency,
    )
