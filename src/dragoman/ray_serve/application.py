"""The application of Ray Serve that holds the replicas of one deployment."""

from collections.abc import Mapping
from typing import Any

import msgspec

from dragoman.ray_serve.replica import EngineReplica

_ANSWER_SECONDS = 15.0
"""Time that all replicas together have to say where they are."""

_GRACE_SECONDS = 90.0
"""Time that a replica has to end: its server's drain_seconds, and more."""


class RayMissing(RuntimeError):
    """The extra `ray` is not installed."""


class ClusterUnusable(RuntimeError):
    """There is no Ray cluster at the address, or it does not answer."""


class ReplicaOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What each replica is."""

    settings: str
    """The text of its settings file."""
    environment: Mapping[str, str]
    """Variables of its server. Ray keeps them, keys included, in its cluster."""
    replicas: int
    processors: float
    """That Ray counts as taken on a machine by each of them."""


class RayApplication:
    """The application `dragoman-NAME`. Use it from one thread."""

    def __init__(self, name: str, address: str) -> None:
        """Connect to the cluster at `address`, as ray.init takes it. Raises RayMissing, ClusterUnusable."""
        try:
            import ray
            from ray import serve
        except ImportError:
            raise RayMissing("Ray is not installed: pip install 'dragoman[ray]'") from None
        self._serve: Any = serve
        self._name = f"dragoman-{name}"
        self._handle: Any = None
        if not ray.is_initialized():
            try:
                ray.init(address=address, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ClusterUnusable(f"no Ray cluster can be used at {address}: {error}") from error

    def deploy(self, options: ReplicaOptions) -> None:
        """Start the replicas, or change those that run to the options, and return at once."""
        deployment = self._serve.deployment(
            name="engine",
            num_replicas=options.replicas,
            ray_actor_options={"num_cpus": options.processors},
            graceful_shutdown_timeout_s=_GRACE_SECONDS,
            graceful_shutdown_wait_loop_s=1,
            health_check_period_s=5,
            health_check_timeout_s=30,
        )(EngineReplica)
        application = deployment.bind(options.settings, dict(options.environment))
        self._serve.start(proxy_location="Disabled")
        target = self._serve.RunTarget(target=application, name=self._name, route_prefix=None)
        [self._handle] = self._serve.run_many([target], wait_for_applications_running=False)

    def urls(self) -> set[str]:
        """Return the URLs of the replicas that can serve. Raises ClusterUnusable."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        assert self._handle is not None, "deployed before"
        try:
            found: list[str | None] = self._handle.broadcast("url").results(timeout_s=_ANSWER_SECONDS)
        except (RayError, RayServeException, TimeoutError, RuntimeError) as error:
            raise ClusterUnusable(f"the replicas do not answer: {error}") from error
        return {url for url in found if url is not None}

    def delete(self) -> None:
        """Stop the replicas; their servers finish what they have begun."""
        self._serve.delete(self._name)
