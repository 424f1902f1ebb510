"""Checks of what the settings alone say about the deployments: no model is looked for."""

from collections.abc import Iterable

from dragoman.engines.upstream.http_request import UpstreamAddress
from dragoman.server.reserved_names import RESERVED_NAMES
from dragoman.server.settings import DeploymentSettings, Settings


class DeploymentError(Exception):
    """The deployments cannot be served as they are set. The message is one line for people."""


def check_deployments(settings: Settings) -> None:
    """Check names, fallbacks and addresses of the deployments. Raises DeploymentError."""
    if settings.deployments and settings.model is not None:
        raise DeploymentError("a model and [[deployments]] are both set; set the model in one place")
    for deployment in settings.deployments:
        _check_reserved_name(deployment)
        _check_upstreams(deployment)
    check_names((each.name, (each.name, *each.aliases)) for each in settings.deployments)
    names = {each.name for each in settings.deployments}
    for deployment in settings.deployments:
        for fallback in (*deployment.fallbacks, *deployment.context_fallbacks):
            if fallback == deployment.name or fallback not in names:
                raise DeploymentError(
                    f"the deployment {deployment.name} falls back to {fallback}, which is not another deployment"
                )


def check_names(deployments: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Check that no two deployments, each given by its name and all of its names, have one. Raises DeploymentError."""
    taken: dict[str, str] = {}
    for deployment, names in deployments:
        for name in dict.fromkeys(names):
            if name in taken:
                both = "two deployments" if deployment == taken[name] else f"{taken[name]} and {deployment}"
                raise DeploymentError(f"{both} are called {name}; each name may stand for one deployment")
            taken[name] = deployment


def _check_reserved_name(deployment: DeploymentSettings) -> None:
    served_in_float16 = deployment.dialects is None or "float16" in deployment.dialects
    if served_in_float16 and deployment.name.lower() in RESERVED_NAMES:
        raise DeploymentError(
            f"a deployment called {deployment.name} would stand in the way of the path /{deployment.name.lower()}; "
            "choose another name, or leave float16 out of its dialects"
        )


def _check_upstreams(deployment: DeploymentSettings) -> None:
    for upstream in deployment.upstreams:
        try:
            UpstreamAddress.parse(upstream.url)
        except ValueError as error:
            raise DeploymentError(f"an upstream of {deployment.name} cannot be used: {error}") from None
