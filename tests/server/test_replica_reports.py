"""What responses and metrics say about the replica that answered."""

import pytest

from dragoman.core.errors import ReplicaFailed
from dragoman.core.events import Delta, Event, Finished, Started, Usage
from dragoman.dialects.http.context import HttpOptions
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.router_options import RouterOptions
from dragoman.server.app import App, build_app
from tests.support.apps import client_of
from tests.support.scripted_engine import ScriptedEngine

ANSWER: list[Event] = [Started(1, 0), Delta(0, "b", [98]), Finished(0, "stop"), Usage(1, 1, 0, source="upstream")]
LOST = ReplicaFailed("The connection was lost")


def app_of(*deployments: Deployment) -> App:
    return build_app(
        Catalog(deployments), HttpOptions(max_body_bytes=10_000, keep_alive_seconds=15), metrics_directory=None
    )


def two_replicas(*engines: EchoEngine) -> Deployment:
    replicas = tuple(Replica(f"m/{number}", engine, is_upstream=True) for number, engine in enumerate(engines))
    return Deployment(name="m", replicas=replicas, routing=RouterOptions(policy="first"))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_says_who_answered_after_how_many_attempts(stream: bool) -> None:
    app = app_of(two_replicas(ScriptedEngine([LOST]), ScriptedEngine(ANSWER)))
    async with client_of(app) as client:
        response = await client.post("/v1/completions", json={"model": "m", "prompt": "a", "stream": stream})
    assert response.status_code == 200
    names = ("x-dragoman-deployment", "x-dragoman-upstream", "x-dragoman-attempts")
    assert [response.headers[name] for name in names] == ["m", "m/1", "2"]


async def test_a_deployment_with_one_engine_has_nothing_to_say() -> None:
    async with client_of(app_of(Deployment.of("m", (), EchoEngine()))) as client:
        response = await client.post("/v1/completions", json={"model": "m", "prompt": "a"})
        metrics = (await client.get("/metrics")).text
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("x-dragoman-")]
    assert "dragoman_upstream_requests_total{" not in metrics


async def test_a_fallback_is_named() -> None:
    first = Deployment(name="m", replicas=(Replica("m/0", ScriptedEngine([LOST])),), max_attempts=1, fallbacks=("n",))
    async with client_of(app_of(first, Deployment.of("n", (), EchoEngine()))) as client:
        response = await client.post("/v1/completions", json={"model": "m", "prompt": "a"})
    assert response.json()["model"] == "m"
    assert response.headers["x-dragoman-deployment"] == "n"


async def test_metrics_count_attempts_answers_and_ejections() -> None:
    refusing = ScriptedEngine([ReplicaFailed("The upstream refuses access", "configuration")])
    async with client_of(app_of(two_replicas(refusing, ScriptedEngine(ANSWER, ANSWER)))) as client:
        for _ in range(2):
            await client.post("/v1/completions", json={"model": "m", "prompt": "a"})
        lines = set((await client.get("/metrics")).text.splitlines())
    assert lines >= {
        'dragoman_upstream_attempts_total{model="m",reason="configuration",upstream="m/0"} 1.0',
        'dragoman_upstream_requests_total{model="m",outcome="ok",upstream="m/1"} 2.0',
        'dragoman_upstream_ejections_total{model="m",upstream="m/0"} 1.0',
        'dragoman_upstream_ejected{model="m",upstream="m/0"} 1.0',
        'dragoman_upstream_ejected{model="m",upstream="m/1"} 0.0',
        'dragoman_upstream_in_flight{model="m",upstream="m/1"} 0.0',
        'dragoman_upstream_retry_budget{model="m"} 29.0',
        'dragoman_upstream_first_token_seconds_count{model="m",upstream="m/1"} 2.0',
        'dragoman_upstream_usage_source_total{model="m",source="upstream"} 2.0',
    }
