"""The checks of what a server needs."""

import asyncio
import json
import resource
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.cli.main import app
from dragoman.server.doctor import Finding, examine
from dragoman.server.settings import AccountsSettings, DeploymentSettings, EngineSettings, HttpSettings, Settings
from dragoman.server.tls import certificate_expiry
from dragoman.server.upstream_settings import UpstreamSettings
from tests.support.certificates import make_certificate
from tests.support.scripted_upstream import response, running_upstream
from tests.support.upstream_engines import KEY, ModelServer, sending


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def found(subject: str, settings: Settings) -> Finding:
    return next(finding for finding in examine(settings) if finding.subject == subject)


def test_a_machine_that_has_all_passes_and_nothing_is_created(tmp_path: Path) -> None:
    findings = list(examine(Settings(model="echo")))
    assert {finding.state for finding in findings} <= {"ok", "warning"}
    assert found("database", Settings(model="echo")).message == "reachable; the first start creates the tables"
    assert list(tmp_path.iterdir()) == []


def test_the_disk_of_saved_prefixes_is_looked_at(tmp_path: Path) -> None:
    engine = EngineSettings(max_saved_prefix_bytes=1000, saved_prefix_dir=str(tmp_path / "prefixes"))
    assert found("disk of saved prefixes", Settings(model="echo", engine=engine)).state in ("ok", "warning")
    unset = [finding.subject for finding in examine(Settings(model="echo"))]
    assert "disk of saved prefixes" not in unset


def test_settings_that_exclude_each_other_are_found() -> None:
    assert found("settings", Settings(model="echo", host="0.0.0.0")).state == "failed"


async def test_upstreams_are_asked_what_they_are_and_what_is_wrong_is_a_warning() -> None:
    async def findings(server: ModelServer, model: str | None = "m") -> list[Finding]:
        async with running_upstream(server.upstream) as url:
            upstream = UpstreamSettings(url=url, model=model, key=KEY)
            deployment = DeploymentSettings(name="assistant", model="echo", upstreams=(upstream,))
            examined = await asyncio.to_thread(lambda: list(examine(Settings(deployments=(deployment,)))))
        return [finding for finding in examined if finding.subject.startswith("upstream")]

    assert await findings(ModelServer()) == [Finding("upstream assistant/1", "ok", "vllm, and it lists m")]
    for server, model, problem in (
        (ModelServer(sending(response(401))), "m", "401"),
        (ModelServer(), None, "it does not list assistant, but m"),
    ):
        [finding] = await findings(server, model)
        assert (finding.state, problem in finding.message) == ("warning", True), finding


def test_an_upstream_that_nobody_listens_at_is_a_warning() -> None:
    deployment = DeploymentSettings(name="a", upstreams=(UpstreamSettings(url="http://127.0.0.1:9"),))
    finding = found("upstream a/0", Settings(deployments=(deployment,)))
    assert (finding.state, "refused" in finding.message.lower()) == ("warning", True)


def test_a_certificate_that_expires_soon_is_a_warning(tmp_path: Path) -> None:
    for days, state in ((10, "warning"), (40, "ok")):
        certificate = make_certificate(tmp_path, f"for {days} days", days=days)
        settings = Settings(model="echo", ssl_certfile=certificate.certfile, ssl_keyfile=certificate.keyfile)
        assert found("tls", settings).state == state
        assert abs(certificate_expiry(settings) - time.time() - days * 86_400) < 3_600


def test_a_database_is_reached_and_its_tables_compared(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    settings = Settings(model="echo", accounts=AccountsSettings(database=f"sqlite:///{path}"))
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    assert found("database", settings) == Finding("database", "ok", "reachable, with the tables of this version")
    with database.write() as connection:
        connection.exec_driver_sql("INSERT INTO schema_migrations VALUES (9999, 'future', 0, NULL)")
    database.close()
    assert found("database", settings).state == "failed"
    path.write_bytes(b"no database")
    assert found("database", settings).state == "failed"


def test_too_few_open_files_are_a_warning() -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert found("open files", Settings(model="echo", http=HttpSettings(max_connections=limit))).state == "warning"
    assert found("open files", Settings(model="echo", http=HttpSettings(max_connections=1))).state == "ok"


def test_each_models_file_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "text.gguf").write_text("no model")
    models = ("echo", "absent.gguf", "text.gguf", "smollm2-135m-instruct")
    deployments = tuple(DeploymentSettings(name=f"d{n}", model=model) for n, model in enumerate(models))
    findings = {each.subject: each.state for each in examine(Settings(deployments=deployments))}
    assert findings["library"] == "ok"
    assert [findings[f"model {model}"] for model in models] == ["ok", "failed", "failed", "ok"]


def test_other_servers_need_neither_a_file_nor_the_library() -> None:
    url = "http://127.0.0.1:1"
    behind = DeploymentSettings(name="assistant", upstreams=(UpstreamSettings(url=url),))
    for settings in (Settings(model=url), Settings(deployments=(behind,))):
        findings = {each.subject: each.state for each in examine(settings)}
        assert "failed" not in findings.values()
        assert "library" not in findings
        assert "model smollm2-135m-instruct" not in findings


def test_the_command_has_an_exit_status_and_prints_json() -> None:
    assert CliRunner().invoke(app, ["doctor", "echo"]).exit_code == 0
    failed = CliRunner().invoke(app, ["doctor", "absent.gguf", "--json"])
    assert failed.exit_code == 1
    states = {finding["subject"]: finding["state"] for finding in json.loads(failed.stdout)}
    assert states["model absent.gguf"] == "failed"
    assert CliRunner().invoke(app, ["doctor", "echo", "--live", "--port", "1"]).exit_code == 1
