import socket
from pathlib import Path

import msgspec
import pytest

from dragoman.core.process_options import OPTIONS_VARIABLE
from dragoman.engines.llama.weights.sources import BUNDLED_ID
from dragoman.engines.llama.wire.options import EngineOptions, SavedPrefixOptions
from dragoman.gateway.routing.router_options import RouterOptions
from dragoman.server.accounts_location import AccountsLocation
from dragoman.server.child_commands import ServerFiles, engine_commands, worker_command
from dragoman.server.planning import plan_deployments
from dragoman.server.settings import AccountsSettings, DeploymentSettings, EngineSettings, KeySettings, Settings
from dragoman.server.upstream_settings import UpstreamSettings
from dragoman.server.worker_options import DeploymentOptions, EchoOptions, LlamaOptions, UpstreamOptions, WorkerOptions


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
    [[llama], [echo]] = [deployment.engines for deployment in options.deployments]
    assert isinstance(llama, LlamaOptions)
    assert isinstance(echo, EchoOptions)
    assert echo.tool_format == "llama3"


def test_a_worker_knows_where_the_settings_were_set(tmp_path: Path) -> None:
    settings = Settings(deployments=(DeploymentSettings(name="echo", model="echo"),))
    with socket.socket() as listener:
        files = ServerFiles(listener, tmp_path, 0)
        origins = {"deployments": "dragoman.toml"}
        worker = worker_command(settings, plan_deployments(settings), None, files, origins=origins)
    options = msgspec.json.decode(worker.environment[OPTIONS_VARIABLE], type=WorkerOptions)
    assert options.setting_origins == origins


def test_each_replica_has_a_process_and_a_socket_of_its_own(tmp_path: Path) -> None:
    settings = Settings(
        deployments=(
            DeploymentSettings(name="echo", model="echo"),
            DeploymentSettings(name="twice", model=BUNDLED_ID, replicas=2, load="lazy"),
        )
    )
    plans = plan_deployments(settings)
    with socket.socket() as listener:
        files = ServerFiles(listener, tmp_path, 0)
        commands = engine_commands(settings, plans, files)
        worker = worker_command(settings, plans, None, files)
    options = msgspec.json.decode(worker.environment[OPTIONS_VARIABLE], type=WorkerOptions)
    engines = [engine for engine in options.deployments[1].engines if isinstance(engine, LlamaOptions)]
    assert [engine.wake_number for engine in engines] == [*commands] == [1, 2]
    assert {engine.cache_tokens for engine in engines} == {2 * settings.engine.kv_cache_tokens}, (
        "and as many on the host"
    )
    sockets = [
        msgspec.json.decode(command.environment[OPTIONS_VARIABLE], type=EngineOptions).socket_path
        for command in commands.values()
    ]
    assert [engine.socket for engine in engines] == sockets == [str(tmp_path / f"engine-{i}.sock") for i in (1, 2)]


def test_an_upstreams_key_reaches_the_workers_and_nobody_else(tmp_path: Path) -> None:
    upstream = UpstreamSettings(url="http://gpu:8000", key="sk-upstream-0123456789")
    settings = Settings(
        deployments=(
            DeploymentSettings(
                name="far", upstreams=(upstream,), route="first", wait_seconds=7, max_waiting=9, attempts=2
            ),
            DeploymentSettings(name="near", model=BUNDLED_ID),
        )
    )
    plans = plan_deployments(settings)
    with socket.socket() as listener:
        files = ServerFiles(listener, tmp_path, 0)
        [engine] = engine_commands(settings, plans, files).values()
        worker = worker_command(settings, plans, None, files)
    options = msgspec.json.decode(worker.environment[OPTIONS_VARIABLE], type=WorkerOptions)
    assert options.deployments[0] == DeploymentOptions(
        name="far",
        aliases=(),
        dialects=None,
        engines=(UpstreamOptions(upstream=upstream, model="far"),),
        routing=RouterOptions(policy="first", wait_seconds=7, max_waiting=9),
        attempts=2,
    )
    assert not options.settings.deployments
    assert "sk-upstream" not in str((worker.arguments, engine.arguments, engine.environment))


def saved_prefix_options(settings: Settings, accounts: AccountsLocation | None = None) -> SavedPrefixOptions | None:
    with socket.socket() as listener:
        files = ServerFiles(listener, Path("/unused"), 0)
        commands = engine_commands(settings, plan_deployments(settings), files, accounts=accounts)
    [engine] = commands.values()
    assert engine.environment is not None
    return msgspec.json.decode(engine.environment[OPTIONS_VARIABLE], type=EngineOptions).saved_prefixes


def test_prefixes_are_saved_only_if_the_settings_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert saved_prefix_options(Settings()) is None
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    saved = saved_prefix_options(Settings(engine=EngineSettings(max_saved_prefix_bytes=1000)))
    assert saved is not None
    assert (saved.folder, saved.max_bytes) == (str(tmp_path / "dragoman" / "prefixes"), 1000)
    assert saved.owners == {"": ""}
    embeddings = EngineSettings(max_saved_prefix_bytes=1000, embeddings=True)
    assert saved_prefix_options(Settings(engine=embeddings)) is None


def test_a_key_has_the_same_name_for_its_prefixes_whatever_its_number_is(tmp_path: Path) -> None:
    engine = EngineSettings(max_saved_prefix_bytes=1000, saved_prefix_dir=str(tmp_path))
    alice, bob = (KeySettings(name=name, key=f"secret-of-{name}-0123456789") for name in ("alice", "bob"))
    team = KeySettings(name="team", key="secret-of-a-team-0123456789", group="red")
    both, turned = (
        saved_prefix_options(Settings(keys=keys, engine=engine)) for keys in ((alice, bob, team), (bob, alice))
    )
    assert both is not None
    assert turned is not None
    assert both.owners["key 1"] == turned.owners["key 2"] != both.owners["key 2"] == turned.owners["key 1"]
    assert both.owners["key group red"] == "key group red"
    assert len(both.owners) == 3


def test_accounts_have_prefixes_of_their_database(tmp_path: Path) -> None:
    def saved(url: str) -> SavedPrefixOptions:
        engine = EngineSettings(max_saved_prefix_bytes=1000, saved_prefix_dir=str(tmp_path))
        settings = Settings(accounts=AccountsSettings(database=url), engine=engine)
        options = saved_prefix_options(settings, AccountsLocation(url, tmp_path))
        assert options is not None
        assert options.owners == {}
        return options

    first, same, other = (
        saved(f"postgresql://user:{password}@host/{name}")
        for password, name in (("a", "books"), ("b", "books"), ("a", "others"))
    )
    assert first.accounts == same.accounts != other.accounts
