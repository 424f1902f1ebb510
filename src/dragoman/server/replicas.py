"""Connect a worker to the engines of its deployments: the one place that knows their kinds."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from dragoman.core.child_process import HEARTBEAT_SECONDS
from dragoman.core.embedding import ModelKind
from dragoman.core.user_paths import user_path
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.engines.llama.wire.options import EngineTimeouts
from dragoman.engines.llama.worker.client import LlamaEngine
from dragoman.engines.llama.worker.embedding_client import LlamaEmbeddingEngine
from dragoman.engines.llama.worker.images import ImageIntake, ImageMemory
from dragoman.engines.reported_load import LoadReports
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.server.replica_loads import MAX_AGE_SECONDS
from dragoman.server.settings import SupervisionSettings
from dragoman.server.upstream_changes import AddedUpstream
from dragoman.server.upstream_settings import UpstreamSettings
from dragoman.server.worker_options import (
    DeploymentOptions,
    EchoOptions,
    LlamaOptions,
    ReplicaOptions,
    UpstreamOptions,
    WorkerOptions,
)

if TYPE_CHECKING:
    from dragoman.engines.upstream.engine import UpstreamEngine
    from dragoman.engines.upstream.http_client import UpstreamClient

SPARE_CONNECTIONS = 4
"""Of an upstream, for probes and counts of tokens beside the requests that it may have."""


def build_deployments(options: WorkerOptions) -> list[Deployment]:
    """Build the deployments of a worker."""
    images = ImageMemory()
    return [_build_deployment(deployment, options, images) for deployment in options.deployments]


def _build_deployment(deployment: DeploymentOptions, options: WorkerOptions, images: ImageMemory) -> Deployment:
    """Build a deployment with an engine for each of its replicas."""
    return Deployment(
        name=deployment.name,
        aliases=deployment.aliases,
        dialects=deployment.dialects,
        replicas=tuple(
            _build_replica(f"{deployment.name}/{number}", engine, options, images)
            for number, engine in enumerate(deployment.engines)
        ),
        max_attempts=deployment.attempts,
        routing=deployment.routing,
        fallbacks=deployment.fallbacks,
        context_fallbacks=deployment.context_fallbacks,
    )


def _build_replica(name: str, engine: ReplicaOptions, options: WorkerOptions, images: ImageMemory) -> Replica:
    if isinstance(engine, UpstreamOptions):
        return connect_upstream(name, engine.upstream, engine.model, engine.kind)
    connected = _connect(engine, options.settings.supervision, options.wake_fd, images)
    if isinstance(engine, EchoOptions):
        return Replica(name, connected)
    return Replica(name, connected, cache_tokens=engine.cache_tokens, load_reports=LoadReports(MAX_AGE_SECONDS))


def connect_added_upstream(name: str, upstream: AddedUpstream, deployment: Deployment) -> Replica:
    """Connect to an upstream that an administrator has added to a deployment. Raises ValueError."""
    variable = upstream.key_variable
    if variable is not None and variable not in os.environ:
        raise ValueError(f"the environment variable {variable} is not set")
    settings = UpstreamSettings(
        url=upstream.url,
        kind=upstream.kind,
        key=None if variable is None else os.environ[variable],
        weight=upstream.weight,
        priority=upstream.priority,
        concurrency=upstream.concurrency,
        timeouts=upstream.timeouts,
    )
    return connect_upstream(name, settings, upstream.model or deployment.name, deployment.kind)


def connect_upstream(name: str, upstream: UpstreamSettings, model: str, model_kind: ModelKind) -> Replica:
    """Return the replica of an upstream, which calls the model so. Raises ValueError."""
    engine = _upstream_engine(name, upstream, model, model_kind)
    return Replica(
        name,
        engine,
        priority=upstream.priority,
        weight=upstream.weight,
        concurrency=upstream.concurrency,
        is_upstream=True,
        load_reports=engine.load_reports,
        url=upstream.url,
    )


def _connect(
    engine: EchoOptions | LlamaOptions, supervision: SupervisionSettings, wake_fd: int, images: ImageMemory
) -> Engine:
    match engine:
        case EchoOptions(echo=echo):
            return EchoEngine(
                tokens_per_second=echo.tokens_per_second,
                context_length=echo.context_length,
                tool_format=engine.tool_format or "generic",
            )
        case LlamaOptions(wake_number=number):
            timeouts = EngineTimeouts(
                heartbeat=supervision.heartbeat_timeout_seconds,
                event=engine.event_timeout_seconds,
                reply=engine.reply_timeout_seconds,
                ready=HEARTBEAT_SECONDS + supervision.ready_timeout_seconds,
            )
            wake = None if number is None else partial(os.write, wake_fd, bytes([number]))
            if engine.kind == "generation":
                intake = None if engine.images is None else ImageIntake(engine.images, images)
                return LlamaEngine(Path(engine.socket), wake, engine.architecture, timeouts, intake)
            return LlamaEmbeddingEngine(Path(engine.socket), engine.kind, request_start=wake, timeouts=timeouts)


def upstream_client(upstream: UpstreamSettings) -> "UpstreamClient":
    """Return what sends requests to an upstream. Raises ValueError."""
    from dragoman.core.secret_text import SecretText
    from dragoman.engines.upstream.http_client import UpstreamClient
    from dragoman.engines.upstream.http_request import UpstreamAddress
    from dragoman.engines.upstream.time_limits import UpstreamTimeouts

    return UpstreamClient(
        UpstreamAddress.parse(upstream.url),
        key=None if upstream.key is None else SecretText(upstream.key),
        timeouts=UpstreamTimeouts(**msgspec.structs.asdict(upstream.timeouts)),
        max_connections=upstream.concurrency + SPARE_CONNECTIONS,
    )


def _upstream_engine(name: str, upstream: UpstreamSettings, model: str, model_kind: ModelKind) -> "UpstreamEngine":
    # A server without upstreams need not load their client.
    from dragoman.engines.upstream.discovery import DeclaredModel
    from dragoman.engines.upstream.embedding_engine import UpstreamEmbeddingEngine
    from dragoman.engines.upstream.engine import UpstreamEngine

    deployment, _, _ = name.rpartition("/")
    client = upstream_client(upstream)
    kind = upstream.kind
    declared = DeclaredModel(
        name=model, kind=kind, context_length=upstream.context_length, is_listed=upstream.lists_models
    )
    if model_kind == "generation":
        tokenizer = None
        if upstream.tokenizer is not None:
            from dragoman.engines.upstream.local_tokenizer import shared_tokenizer  # It needs the extra `tokenizers`.

            tokenizer = shared_tokenizer(user_path(upstream.tokenizer))
        return UpstreamEngine(
            name, client, model=model, kind=kind, tokenizer=tokenizer, deployment=deployment, declared=declared
        )
    return UpstreamEmbeddingEngine(name, client, model=model, model_kind=model_kind, kind=kind, declared=declared)
