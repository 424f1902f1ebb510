"""What the upstreams of the settings answer when they are asked once, as `dragoman doctor` does."""

import asyncio
from collections.abc import Iterator

import msgspec

from dragoman.server.settings import DeploymentSettings
from dragoman.server.upstream_settings import UpstreamSettings

TIMEOUT_SECONDS = 5.0
"""Of the whole answer: of the probes of a running server, too."""


class UpstreamUnwell(Exception):
    """An upstream does not answer, or does not list its model. The message is one line for people."""


def named_upstreams(deployment: DeploymentSettings) -> Iterator[tuple[str, UpstreamSettings]]:
    """Yield each upstream with its name: engines of this machine have the first numbers."""
    own = deployment.replicas if deployment.model is not None else 0
    for number, upstream in enumerate(deployment.upstreams, start=own):
        yield f"{deployment.name}/{number}", upstream


def ask_upstream(upstream: UpstreamSettings, deployment: str) -> str:
    """Return what an upstream is. Raises UpstreamUnwell."""
    return asyncio.run(_ask(upstream, upstream.model or deployment))


async def _ask(upstream: UpstreamSettings, model: str) -> str:
    from dragoman.engines.upstream.discovery import DeclaredModel, discover
    from dragoman.engines.upstream.transport_errors import TransportError
    from dragoman.server.replicas import upstream_client

    try:
        client = upstream_client(upstream)
    except ValueError as error:
        raise UpstreamUnwell(str(error)) from None
    declared = DeclaredModel(
        name=model, kind=upstream.kind, context_length=upstream.context_length, is_listed=upstream.lists_models
    )
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            found = await discover(client, declared)
    except TimeoutError:
        raise UpstreamUnwell(f"no answer in {TIMEOUT_SECONDS:g} seconds") from None
    except TransportError as error:
        raise UpstreamUnwell(f"it does not list its models: {error}") from None
    except msgspec.MsgspecError:
        raise UpstreamUnwell("its list of models is malformed") from None
    finally:
        client.close()
    kind = upstream.kind or found.kind
    if found.find(model) is None:
        listed = ", ".join(each.name for each in found.models) or "nothing"
        raise UpstreamUnwell(f"{kind}, and it does not list {model}, but {listed}; see `model` of the upstream")
    return f"{kind}, and it lists {model}"
