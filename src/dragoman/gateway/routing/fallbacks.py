"""Other deployments that answer a request when its own cannot."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from dragoman.core.errors import ContextOverflow, DragomanError, EngineFailed, Overloaded
from dragoman.core.tasks import Task
from dragoman.gateway.routing.catalog import Catalog, Deployment


class Fallbacks(NamedTuple):
    """The deployments to try, in order, each at most once."""

    on_failure: tuple[Deployment, ...] = ()
    """After all attempts."""
    on_overflow: tuple[Deployment, ...] = ()
    """When the context is too short for the prompt."""
    names: tuple[str, ...] = ()
    """The names of all of them."""

    def after(self, error: DragomanError, requests: Sequence[Task], excluded: Collection[str]) -> Deployment | None:
        """Return the deployment to try after this error, which can do what the requests need. None: there is none."""
        if isinstance(error, ContextOverflow):
            candidates = self.on_overflow
        elif isinstance(error, EngineFailed | Overloaded):
            candidates = self.on_failure
        else:
            return None
        return next((each for each in candidates if each.name not in excluded and can_answer(each, requests)), None)


NO_FALLBACKS = Fallbacks()


def fallbacks_of(deployment: Deployment, catalog: Catalog) -> Fallbacks:
    """Return the fallbacks of a deployment."""
    resolve = catalog.unfiltered.resolve
    return Fallbacks(
        tuple(resolve(name).deployment for name in deployment.fallbacks),
        tuple(resolve(name).deployment for name in deployment.context_fallbacks),
        tuple(dict.fromkeys((*deployment.fallbacks, *deployment.context_fallbacks))),
    )


def can_answer(deployment: Deployment, requests: Sequence[Task]) -> bool:
    """Whether some replica of the deployment can answer each of the requests."""
    return all(deployment.able_replicas(request) for request in requests)
