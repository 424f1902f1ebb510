import socket
from pathlib import Path

import msgspec

from dragoman.core.process_options import OPTIONS_VARIABLE
from dragoman.engines.llama.weights.sources import BUNDLED_ID
from dragoman.engines.llama.wire.options import EngineOptions
from dragoman.server.child_commands import ServerFiles, engine_commands, worker_command
from dragoman.server.planning import plan_deployments
from dragoman.server.settings import DeploymentSettings, Settings
from dragoman.server.worker_options import WorkerOptions


def test_each_engine_gets_the_tool_format_of_its_deployment(tmp_path: Path) -> None:
    settings = Settings(
        deployments=(
            DeploymentSettings(name="set", model=BUNDLED_ID, tool_format="kimi_k2"),
            DeploymentSettings(name="echo", model="echo", tool_format="llama3"),
        )
    )
    plans = plan_deployments(settings)
    with socket.socket() as listener:
        files = ServerFiles(listener, tmp_path, 0)
        [engine] = engine_commands(settings, plans, files).values()
        worker = worker_command(settings, plans, None, files)
    assert engine.environment is not None
    assert worker.environment is not None
    assert msgspec.json.decode(engine.environment[OPTIONS_VARIABLE], type=EngineOptions).tool_format == "kimi_k2"
    options = msgspec.json.decode(worker.environment[OPTIONS_VARIABLE], type=WorkerOptions)
    assert [deployment.tool_format for deployment in options.deployments] == ["kimi_k2", "llama3"]
