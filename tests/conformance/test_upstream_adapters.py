"""The LoRA adapters of upstreams are models of their deployment, in every dialect."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.core.errors import Forbidden
from dragoman.engines.upstream.engine import UpstreamEngine
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress
from dragoman.gateway.routing.adapters import AdapterRegistrar, NoAdapterStore
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.gateway.routing.replica import Replica
from tests.support.apps import client_of, echo_app
from tests.support.dialects.clients import DialectClient
from tests.support.scripted_upstream import (
    HEAD,
    LAST_CHUNK,
    ScriptedRequest,
    ScriptedUpstream,
    event,
    response,
    running_upstream,
)
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

ANSWER = event(b'{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}')


class AdapterServer:
    """A server of the model `base`, also called `other`, with adapters."""

    def __init__(self, owner: str, *adapters: str) -> None:
        self.asked: list[str] = []
        self.adapters = list(adapters)
        self._owner = owner
        self.upstream = ScriptedUpstream(self._answer)

    async def _answer(self, request: ScriptedRequest) -> None:
        if request.head.startswith(b"GET /v1/models"):
            names = ("base", "other")
            entries: list[dict[str, Any]] = [{"id": name, "root": "/base", "parent": None} for name in names]
            entries += [{"id": name, "root": f"/{name}", "parent": "base"} for name in self.adapters]
            body = {"data": [{"owned_by": self._owner, "max_model_len": 512, **entry} for entry in entries]}
            await request.send(response(200, json.dumps(body).encode()))
            return
        self.asked.append(json.loads(request.body)["model"])
        await request.send(HEAD, ANSWER, LAST_CHUNK)


@contextlib.asynccontextmanager
async def deployment_of(*servers: AdapterServer, model: str = "base") -> AsyncGenerator[Deployment]:
    """Open a deployment that knows the adapters of its upstreams."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(TEST_TIMEOUT_SECONDS))
        replicas = []
        for number, server in enumerate(servers):
            url = await stack.enter_async_context(running_upstream(server.upstream))
            client = UpstreamClient(UpstreamAddress.parse(url))
            engine = UpstreamEngine(f"echo/{number}", client, model=model, deployment="echo")
            stack.push_async_callback(engine.close)
            await engine.find_out()
            replicas.append(Replica(f"echo/{number}", engine, is_upstream=True))
        yield Deployment(name="echo", replicas=tuple(replicas))


async def ask(client: httpx.AsyncClient, dialect: DialectClient, model: str) -> int:
    # A path of float16 has no aliases.
    path = dialect.path("echo:sql" if (dialect.name, model) == ("float16", "sql") else model)
    reply = await client.post(path, json=dialect.body(model, "Hello"))
    return reply.status_code


@pytest.mark.parametrize("model", ["base", "other"])
async def test_an_adapter_is_asked_for_by_its_name_with_and_without_that_of_the_deployment(
    dialect: DialectClient, model: str
) -> None:
    server = AdapterServer("vllm", "sql")
    async with deployment_of(server, model=model) as deployment, client_of(echo_app(engine=deployment)) as client:
        for name in ("echo:sql", "sql", "echo"):
            assert await ask(client, dialect, name) == 200
        for name in ("echo:python", "other", "echo:"):
            assert await ask(client, dialect, name) == dialect.unknown_model_status
    assert server.asked == ["sql", "sql", model]


async def test_adapters_are_listed_with_the_models() -> None:
    server = AdapterServer("vllm", "sql")
    async with deployment_of(server) as deployment, client_of(echo_app(engine=deployment)) as client:
        listed = (await client.get("/openai/v1/models")).json()["data"]
    assert {"echo", "echo:sql"} <= {entry["id"] for entry in listed}


async def test_sglang_is_asked_in_its_own_words() -> None:
    server = AdapterServer("sglang", "sql")
    async with deployment_of(server) as deployment, client_of(echo_app(engine=deployment)) as client:
        reply = await client.post("/v1/completions", json={"model": "echo:sql", "prompt": "a"})
    assert reply.status_code == 200
    assert server.asked == ["base:sql"]
    assert f"x-request-id: {reply.headers['x-request-id']}\r\n".encode() in server.upstream.requests[-1].head


async def test_only_the_upstreams_that_have_an_adapter_are_asked_for_it() -> None:
    first, second = AdapterServer("vllm", "sql"), AdapterServer("vllm", "python")
    async with deployment_of(first, second) as deployment, client_of(echo_app(engine=deployment)) as client:
        for _ in range(3):
            for name in ("sql", "python"):
                assert (await client.post("/v1/completions", json={"model": name, "prompt": "a"})).status_code == 200
    assert (set(first.asked), set(second.asked)) == ({"sql"}, {"python"})


async def test_an_adapter_that_its_upstream_unloads_is_gone() -> None:
    server = AdapterServer("vllm", "sql")
    async with deployment_of(server) as deployment:
        catalog = Catalog([deployment])
        resolved = catalog.resolve("sql")
        server.adapters.clear()
        [engine] = deployment.engines
        assert isinstance(engine, UpstreamEngine)
        await engine.find_out()
        assert catalog.find_model("sql") is None
        assert resolved.adapter == Adapter(
            name="echo:sql",
            aliases=("sql",),
            source=AdapterSource("upstream", "sql"),
            created_at=resolved.adapter.created_at if resolved.adapter else 0,
        )


async def test_clients_register_nothing_with_an_upstream_and_remove_nothing_from_it() -> None:
    async with deployment_of(AdapterServer("vllm", "sql")) as deployment:
        registrar = AdapterRegistrar(Catalog([deployment]), NoAdapterStore())
        with pytest.raises(Forbidden, match="belongs to the model's server"):
            await registrar.unregister("sql")
