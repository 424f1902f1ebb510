"""What one account owns does not exist for another: every route, with the adapters and the jobs of another tenant."""

import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.routing import Route

from dragoman.accounts.administration.accounts import create_account
from dragoman.accounts.administration.keys import create_key
from dragoman.accounts.administration.prices import set_price
from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.dialects.http.context import HttpOptions
from dragoman.dialects.registry import DialectName
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.jobs.values.options import QueueOptions
from dragoman.server.dialects import DIALECTS
from tests.conformance.test_access import OPEN_PATHS, ROUTES
from tests.support.apps import client_of
from tests.support.dialects.clients import DIALECT_CLIENTS
from tests.support.echo_engines import AdaptableEcho
from tests.support.jobs.http_queue_harness import (
    ACCEPT_STREAM,
    RESPOND_ASYNC,
    HttpQueueHarness,
    job_when_ended,
    open_queue_harness,
)
from tests.support.jobs.queue_harness import wait_until
from tests.support.metered import cost
from tests.support.tiny_llama import write_adapter

LORA = "/empower/api/v1/lora"
OWN, ABSENT, SHARED = "poet", "nope", "calm"
"""The adapters of the first account, of nobody, and of the operator. The first two names are equally long."""

HOSTS: dict[str, DialectName] = {f"{name}.example": name for name in DIALECTS}


def routes_by_host() -> list[tuple[str, str, str]]:
    """List host, method and path of every route that depends on the caller, those on the dialects' own hosts too."""
    gateway = Gateway(Catalog([Deployment.of("echo", (), EchoEngine())]), RequestMetrics(CollectorRegistry()))
    options = HttpOptions(max_body_bytes=1000, keep_alive_seconds=15)
    found = [("server", method, path) for method, path in ROUTES]
    for host, dialect in HOSTS.items():
        for route in DIALECTS[dialect].vendor_routes(gateway, options):
            assert isinstance(route, Route)
            found += [(host, method, route.path) for method in sorted((route.methods or set()) - {"HEAD"})]
    return [route for route in found if route[2] not in {*OPEN_PATHS, "/metrics"}]


ROUTES_BY_HOST = routes_by_host()
GENERATING = [(host, path) for host, method, path in ROUTES_BY_HOST if method == "POST" and "completion" in path]
CREDENTIALS = ["another account", "an account without balance", "no key"]
"""Wrong keys are the same as none on every route (test_access), and are throttled."""


class Tenants(NamedTuple):
    """A server of two accounts, of which the first has an adapter and a job."""

    harness: HttpQueueHarness
    engine: AdaptableEcho
    first: httpx.AsyncClient
    job_id: str
    others: dict[str, httpx.AsyncClient]
    """Clients with other credentials."""

    @property
    def second(self) -> httpx.AsyncClient:
        return self.others["another account"]


@pytest.fixture(scope="module")
def adapter_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the operator with two adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    write_adapter(folder / "one.gguf", {})
    write_adapter(folder / "two.gguf", {})
    return folder


@pytest.fixture
def harness() -> Iterator[HttpQueueHarness]:
    with open_queue_harness() as harness:
        yield harness


@pytest.fixture
async def tenants(harness: HttpQueueHarness, adapter_dir: Path) -> AsyncIterator[Tenants]:
    engine = AdaptableEcho()
    engine.adapter_host.by_name[SHARED] = Adapter(
        name=SHARED, source=AdapterSource("local", "calm.gguf"), created_at=17, aliases=("still",)
    )
    poor = create_key(harness.customer.database, create_account(harness.customer.database, "poor").id).secret
    keys = dict(zip(CREDENTIALS, (harness.other_secret, poor, None), strict=True))
    async with (
        harness.server(engine, adapter_dir=adapter_dir, hosts=HOSTS) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        others = {name: await stack.enter_async_context(client_of(server.app, key=key)) for name, key in keys.items()}
        assert (await register(server.client, OWN)).status_code == 200
        queued = await server.client.post("/v1/chat/completions", json=chat(OWN), headers=RESPOND_ASYNC)
        assert queued.status_code == 202
        yield Tenants(harness, engine, server.client, queued.json()["id"], others)


def chat(model: str) -> dict[str, Any]:
    """Return a body that every route that generates accepts."""
    messages = [{"role": "user", "content": "Hello"}]
    return {"model": model, "messages": messages, "prompt": "Hello", "chat_history": [], "max_tokens": 9}


async def register(client: httpx.AsyncClient, name: str, file: str = "one") -> httpx.Response:
    return await client.post(LORA, json={"model_name": file, "model_source": "LOCAL", "name": name})


async def list_models(client: httpx.AsyncClient) -> list[str]:
    return [card["id"] for card in (await client.get("/empower/models")).json()["data"]]


def filled(route: str, name: str) -> str:
    """Return the path of a route with this name for each of its parameters."""
    return re.sub(r"\{[^}]*\}", name, route)


def comparable(response: httpx.Response, name: str) -> tuple[int, str, list[str]]:
    """Return what a client sees of a response, without its ids and times and the name it asked for."""
    text = re.sub(r"[0-9a-f]{32}|\d{10}", "#", response.text.replace(name, "NAME"))
    return response.status_code, text, sorted(set(response.headers) - {"content-length"})


async def test_on_every_route_another_accounts_adapter_is_like_one_that_is_absent(tenants: Tenants) -> None:
    for credential, client in tenants.others.items():
        for host, method, route in ROUTES_BY_HOST:
            seen = []
            for name in (OWN, ABSENT):
                response = await client.request(method, filled(route, name), json=chat(name), headers={"host": host})
                assert response.status_code < 500, (credential, host, method, route)
                seen.append(comparable(response, name))
            assert seen[0] == seen[1], (credential, host, method, route)
    assert OWN in await list_models(tenants.first)


async def test_another_accounts_job_is_like_one_that_is_absent_whether_read_streamed_or_cancelled(
    tenants: Tenants,
) -> None:
    absent = f"job_{0:032x}"
    ways = [(host, method, path) for host, method, path in ROUTES_BY_HOST if path == "/queue/response/{id}"]
    assert {host for host, *_ in ways} == {"server", *HOSTS}
    for credential, (host, method, path), accept in itertools.product(CREDENTIALS, ways, ({}, ACCEPT_STREAM)):
        client, headers = tenants.others[credential], {**accept, "host": host}
        seen = [
            comparable(await client.request(method, filled(path, job_id), headers=headers), job_id)
            for job_id in (tenants.job_id, absent)
        ]
        assert seen[0] == seen[1]
        assert seen[0][0] == (401 if credential == "no key" else 404)
    document = await job_when_ended(tenants.first, f"/queue/response/{tenants.job_id}")
    assert document["status"] == "finished"


async def test_on_every_route_its_owner_can_use_an_adapter_and_all_can_use_the_operators(tenants: Tenants) -> None:
    await job_when_ended(tenants.first, f"/queue/response/{tenants.job_id}")
    uses = ((tenants.first, OWN), (tenants.first, SHARED), (tenants.second, SHARED))
    for (host, route), (client, name) in itertools.product(GENERATING, uses):
        tenants.engine.requested_adapters.clear()
        headers = {"accept": "application/json", "host": host}
        response = await client.post(filled(route, name), json=chat(name), headers=headers)
        assert response.status_code == 200, (host, route, response.text)
        if "queue" in route:
            await job_when_ended(client, f"/queue/response/{response.headers['x-dragoman-job-id']}")
        assert [str(adapter).rpartition("/")[2] for adapter in tenants.engine.requested_adapters] == [name]


async def test_two_accounts_may_give_different_adapters_the_same_name(tenants: Tenants) -> None:
    assert (await register(tenants.second, OWN, "two")).status_code == 200
    assert (await register(tenants.first, OWN, "one")).status_code == 200, "it is registered already"
    for client, file in ((tenants.first, "one.gguf"), (tenants.second, "two.gguf")):
        assert await list_models(client) == ["echo", SHARED, OWN]
        for dialect in DIALECT_CLIENTS:
            assert (await client.post(dialect.path(OWN), json=dialect.body(OWN, "Hello"))).status_code == 200
            used = tenants.engine.adapter_host.by_name[str(tenants.engine.requested_adapters[-1])]
            assert used.digest == f"digest of {file}"
    assert (await tenants.second.delete(f"{LORA}/{OWN}")).status_code == 200
    assert await list_models(tenants.second) == ["echo", SHARED]
    assert await list_models(tenants.first) == ["echo", SHARED, OWN]


async def test_the_operators_adapter_cannot_be_removed_or_replaced_by_a_client(tenants: Tenants) -> None:
    for client, name in itertools.product((tenants.first, tenants.second), (SHARED, "still")):
        removal = await client.delete(f"{LORA}/{name}")
        assert removal.status_code == 403
        assert removal.json()["error"]["code"] == "permission_denied"
        assert (await register(client, name)).json()["error"]["code"] == "name_taken"
        assert SHARED in await list_models(client)


async def test_an_adapter_without_a_price_costs_what_its_model_costs(tenants: Tenants) -> None:
    await job_when_ended(tenants.first, f"/queue/response/{tenants.job_id}")
    set_price(tenants.harness.customer.database, OWN, 0, 0)  # A client could choose any name with a low price.
    for name in (OWN, SHARED):
        assert (await tenants.first.post("/v1/chat/completions", json=chat(name))).status_code == 200
    await wait_until(lambda: len(tenants.harness.customer.usage) == len(["the queued one", OWN, SHARED]))
    charged = [cost(used.prompt_tokens, used.completion_tokens) for used in tenants.harness.customer.usage]
    assert [used.charge for used in tenants.harness.customer.usage] == charged
    assert all(charged)


async def test_an_adapter_may_have_a_price_of_its_own(tenants: Tenants) -> None:
    await job_when_ended(tenants.first, f"/queue/response/{tenants.job_id}")
    owner = f"account {tenants.harness.customer.account_id}"
    set_price(tenants.harness.customer.database, f"{owner}/{OWN}", 2, 0)
    assert (await tenants.first.post("/v1/chat/completions", json=chat(OWN))).status_code == 200
    await wait_until(lambda: len(tenants.harness.customer.usage) == len(["the queued one", OWN]))
    latest = tenants.harness.customer.usage[0]
    assert (latest.model, latest.charge) == (f"{owner}/{OWN}", 2 * latest.prompt_tokens)


async def test_a_job_keeps_its_owners_adapter(tenants: Tenants) -> None:
    await job_when_ended(tenants.first, f"/queue/response/{tenants.job_id}")
    owner = f"account {tenants.harness.customer.account_id}"
    assert tenants.engine.requested_adapters == [f"{owner}/{OWN}"]


async def test_only_an_account_that_can_pay_may_register_an_adapter(tenants: Tenants) -> None:
    poor = tenants.others["an account without balance"]
    assert (await register(poor, "mine")).status_code == 402
    assert await list_models(poor) == ["echo", SHARED]


async def test_an_account_with_its_share_of_the_queue_is_told_to_come_later_and_others_are_not(
    harness: HttpQueueHarness,
) -> None:
    options = QueueOptions(concurrency=0, max_queued_jobs_per_owner=1)
    async with harness.server(options=options) as server, client_of(server.app, key=harness.other_secret) as other:
        for client in (server.client, other):
            statuses = []
            for _ in range(2):
                response = await client.post("/v1/chat/completions", json=chat("echo"), headers=RESPOND_ASYNC)
                statuses.append(response.status_code)
            assert statuses == [202, 429]
            assert int(response.headers["retry-after"]) > 0
            assert response.json()["error"]["message"]


async def test_metrics_show_no_adapter_of_a_client(tenants: Tenants) -> None:
    await job_when_ended(tenants.first, f"/queue/response/{tenants.job_id}")
    await tenants.first.post("/v1/chat/completions", json=chat(OWN))
    shown = (await tenants.second.get("/metrics")).text
    assert 'model="registered adapter"' in shown
    assert OWN not in shown
