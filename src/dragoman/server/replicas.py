"""Connect a worker to the engines of its deployments: the one place that knows their kinds."""

import os
from functools import partial
from pathlib import Path

import msgspec

from dragoman.core.child_process import HEARTBEAT_SECONDS
from dragoman.core.embedding import ModelKind
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.engines.llama.wire.options import EngineTimeouts
from dragoman.engines.llama.worker.client import LlamaEngine
from dragoman.engines.llama.worker.embedding_client import LlamaEmbeddingEngine
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.server.settings import SupervisionSettings, UpstreamSettings
from dragoman.server.worker_options import (
    DeploymentOptions,
    EchoOptions,
    LlamaOptions,
    ReplicaOptions,
    UpstreamOptions,
    WorkerOptions,
)

SPARE_CONNECTIONS = 4
"""Of an upstream, for probes and counts of tokens beside the requests that it may have."""


def build_deployment(deployment: DeploymentOptions, options: WorkerOptions) -> Deployment:
    """Build a deployment with an engine for each of its replicas."""
    return Deployment(
        name=deployment.name,
        aliases=deployment.aliases,
        dialects=deployment.dialects,
        replicas=tuple(
            _build_replica(f"{deployment.name}/{number}", engine, options)
            for number, engine in enumerate(deployment.engines)
        ),
        max_attempts=deployment.attempts,
        route=deployment.route,
        fallbacks=deployment.fallbacks,
        context_fallbacks=deployment.context_fallbacks,
    )


def _build_replica(name: str, engine: ReplicaOptions, options: WorkerOptions) -> Replica:
    connected = _connect(name, engine, options.settings.supervision, options.wake_fd)
    if not isinstance(engine, UpstreamOptions):
        return Replica(name, connected)
    upstream = engine.upstream
    return Replica(
        name,
        connected,
        priority=upstream.priority,
        weight=upstream.weight,
        concurrency=upstream.concurrency,
        is_upstream=True,
    )


def _connect(name: str, engine: ReplicaOptions, supervision: SupervisionSettings, wake_fd: int) -> Engine:
    match engine:
        case UpstreamOptions(upstream=upstream):
            return _connect_upstream(name, upstream, engine.model, engine.kind)
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
                return LlamaEngine(Path(engine.socket), wake, engine.architecture, timeouts)
            return LlamaEmbeddingEngine(Path(engine.socket), engine.kind, request_start=wake, timeouts=timeouts)


def _connect_upstream(name: str, upstream: UpstreamSettings, model: str, model_kind: ModelKind) -> Engine:
    # A server without upstreams need not load their client.
    from dragoman.core.secret_text import SecretText
    from dragoman.engines.upstream.embedding_engine import UpstreamEmbeddingEngine
    from dragoman.engines.upstream.engine import UpstreamEngine
    from dragoman.engines.upstream.http_client import UpstreamClient
    from dragoman.engines.upstream.http_request import UpstreamAddress
    from dragoman.engines.upstream.time_limits import UpstreamTimeouts

    client = UpstreamClient(
        UpstreamAddress.parse(upstream.url),
        key=None if upstream.key is None else SecretText(upstream.key),
        timeouts=UpstreamTimeouts(**msgspec.structs.asdict(upstream.timeouts)),
        max_connections=upstream.concurrency + SPARE_CONNECTIONS,
    )
    if model_kind == "generation":
        return UpstreamEngine(name, client, model=model, kind=upstream.kind)
    return UpstreamEmbeddingEngine(name, client, model=model, model_kind=model_kind, kind=upstream.kind)
