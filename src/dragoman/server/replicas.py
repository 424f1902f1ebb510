"""Connect a worker to the engines of its deployments: the one place that knows their kinds."""

import os
from functools import partial
from pathlib import Path

from dragoman.core.child_process import HEARTBEAT_SECONDS
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.engines.llama.wire.options import EngineTimeouts
from dragoman.engines.llama.worker.client import LlamaEngine
from dragoman.gateway.routing.catalog import Deployment, Replica
from dragoman.server.settings import SupervisionSettings
from dragoman.server.worker_options import DeploymentOptions, EchoOptions, LlamaOptions, WorkerOptions


def build_deployment(deployment: DeploymentOptions, options: WorkerOptions) -> Deployment:
    """Build a deployment with an engine for each of its replicas."""
    supervision, wake_fd = options.settings.supervision, options.wake_fd
    return Deployment(
        name=deployment.name,
        aliases=deployment.aliases,
        dialects=deployment.dialects,
        replicas=tuple(
            Replica(f"{deployment.name}/{number}", _connect(engine, supervision, wake_fd))
            for number, engine in enumerate(deployment.engines)
        ),
    )


def _connect(engine: EchoOptions | LlamaOptions, supervision: SupervisionSettings, wake_fd: int) -> Engine:
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
            return LlamaEngine(Path(engine.socket), wake, engine.architecture, timeouts)
