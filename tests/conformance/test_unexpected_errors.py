"""A defect anywhere behind a route is answered in the route's own envelope, and tells the client nothing."""

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.context import key_digest
from dragoman.core.idempotency import IdempotencyState, IdempotencyStore, IdempotentRequest, InProgress
from dragoman.dialects.http.context import HttpOptions
from dragoman.dialects.http.operation import Operation
from dragoman.engines.base import EngineStatistics
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.auth.static_keys import StaticKeyAuthenticator
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.server import admin
from dragoman.server.access import AccessControl
from dragoman.server.app import App
from dragoman.server.dialects import OPERATIONS
from dragoman.server.health import ReadinessCheck
from dragoman.server.metrics import MetricsSources
from dragoman.server.openapi import example_body
from dragoman.server.origins import SERVE_ALL
from tests.support.apps import KEY, client_of
from tests.support.captured_logs import capture_logs
from tests.support.dialects.clients import DialectClient

SECRET = "postgresql://user:hunter2@host"

FAULTS = [
    *("needs_key", "reject_unknown_key", "check_access", "visible_to", "find_model", "generate", "submit"),
    *("job", "cancel_job", "usage_of", "register_adapter", "unregister_adapter"),
]
"""What routes ask of the gateway: a defect behind it comes out of one of these."""

ADMIN_AND_DIALECTS = [*(each for operations in OPERATIONS.values() for each in operations), *admin.OPERATIONS]


class DefectiveThread(DatabaseThread):
    """A database thread with a defect."""

    async def run(self, *_arguments: Any, **_options: Any) -> Any:
        raise RuntimeError(SECRET)

    run_slow = run


class DefectiveEngine(EchoEngine):
    """An engine that cannot be asked for its state."""

    @property
    def ready(self) -> bool:
        raise RuntimeError(SECRET)

    async def statistics(self) -> EngineStatistics:
        raise RuntimeError(SECRET)


class DefectiveStore:
    """Idempotent responses that cannot be read, after `answers` times in which the request was in progress."""

    max_response_bytes = 1000

    def __init__(self, answers: int) -> None:
        self._answers = answers

    async def claim(self, request: IdempotentRequest) -> IdempotencyState:
        self._answers -= 1
        if self._answers < 0:
            raise RuntimeError(SECRET)
        return InProgress()

    async def store(self, *_arguments: object) -> None:
        raise AssertionError("nothing is claimed")

    def release(self, *_arguments: object) -> None:
        raise AssertionError("nothing is claimed")


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    with capture_logs() as logged:
        yield logged


@contextlib.asynccontextmanager
async def no_lifespan(_app: Starlette) -> AsyncIterator[None]:
    yield


def defective_app(fault: str = "", store: IdempotencyStore | None = None) -> App:
    """Build the app over a gateway whose member `fault` has a defect, and over a defective database and engine."""

    class DefectiveGateway(Gateway):
        def __getattribute__(self, name: str) -> Any:
            if name == fault and is_built:
                raise RuntimeError(SECRET)
            return super().__getattribute__(name)

    is_built = False
    keys = StaticKeyAuthenticator([key_digest(KEY)])
    registry = CollectorRegistry()
    catalog = Catalog([Deployment.of("echo", (), EchoEngine())])
    defective = Catalog([Deployment.of("echo", (), DefectiveEngine())])
    options = HttpOptions(max_body_bytes=10_000, keep_alive_seconds=0, idempotency_store=store)
    gateway = DefectiveGateway(catalog, RequestMetrics(registry), keys)
    access = AccessControl(gateway, options, keys)
    app = App(
        gateway,
        MetricsSources(defective, registry, None),
        options,
        ReadinessCheck(defective, None),
        hosts={},
        origin_policy=SERVE_ALL,
        admin_routes=admin.routes(DefectiveThread(Database("sqlite:////nowhere/none.db")), access, catalog),
        access=access,
        lifespan=no_lifespan,
    )
    is_built = True
    return app


async def send(
    client: httpx.AsyncClient, operation: Operation, headers: dict[str, str], *, is_invalid: bool = False
) -> httpx.Response:
    """Send the operation's example, or a body that is not valid."""
    path = operation.path.replace("{id}", f"job_{'0' * 32}")
    body = None if operation.example is None else example_body(operation.example, "echo")
    if operation.request is not None and body is None:
        body = BODIES[operation.request.__name__]
    path = re.sub(r"\{\w+\}", "1" if path.startswith("/admin") else "echo", path)
    return await client.request(operation.method, path, json={} if is_invalid else body, headers=headers)


BODIES: dict[str, dict[str, object]] = {
    "NewAccount": {"name": "acme"},
    "NewDeposit": {"amount": "1"},
    "NewKeyRequest": {"account": 1},
    "KeyPatch": {},
    "NewPrice": {"model": "echo", "prompt": "1", "completion": "1"},
    "NewUpstream": {"deployment": "echo", "url": "http://127.0.0.1:1"},
    "UpstreamName": {"upstream": "echo"},
    "ModelName": {"model": "echo"},
    "EmbeddingsRequest": {"model": "echo", "input": "Hi"},
    "RerankRequest": {"model": "echo", "query": "Hi", "documents": ["Ho"]},
    "ScoreRequest": {"model": "echo", "text_1": "Hi", "text_2": "Ho"},
}


def assert_internal_error(response: httpx.Response, operation: Operation) -> None:
    assert response.status_code == 500, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    msgspec.json.decode(response.content, type=operation.error)
    assert SECRET not in response.text


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_defect_of_the_gateway_is_reported_in_the_envelope_of_every_route(
    fault: str, logged: list[Any]
) -> None:
    failed = 0
    async with client_of(defective_app(fault), key=KEY) as client:
        for operation in ADMIN_AND_DIALECTS:
            for headers, is_invalid in (({}, False), ({}, True), ({"prefer": "respond-async"}, False)):
                logged.clear()
                response = await send(client, operation, headers, is_invalid=is_invalid)
                if response.status_code == 500:
                    failed += not operation.path.startswith("/admin")
                    assert_internal_error(response, operation)
                    assert [entry["event"].partition("_")[2] for entry in logged] == ["failed_unexpectedly"]
                    assert logged[0]["exc_info"], "with its traceback"
    assert failed, "some route uses it"


async def test_a_defect_of_the_accounts_database_is_reported_in_the_envelope_of_the_admin_api(
    logged: list[Any],
) -> None:
    async with client_of(defective_app(), key=KEY) as client:
        for operation in admin.OPERATIONS:
            logged.clear()
            assert_internal_error(await send(client, operation, {}), operation)
            assert [entry["event"].partition("_")[2] for entry in logged] == ["failed_unexpectedly"]


@pytest.mark.parametrize("path", ["/ready", "/metrics", "/openapi.json"])
async def test_a_defect_behind_a_route_of_no_dialect_is_reported_in_json(path: str) -> None:
    async with client_of(defective_app("needs_key"), key=KEY) as client:
        response = await client.get(path)
    assert (response.status_code, response.json()) == (500, {"detail": "An internal error occurred"})


async def test_a_defect_of_the_stored_responses_is_reported_in_the_envelope_of_every_route() -> None:
    async with client_of(defective_app(store=DefectiveStore(0)), key=KEY) as client:
        for operation in ADMIN_AND_DIALECTS:
            if operation.generates and not operation.is_always_queued:
                assert_internal_error(await send(client, operation, {"idempotency-key": "a"}), operation)


async def test_a_stream_that_has_begun_ends_with_the_dialects_error(dialect: DialectClient) -> None:
    body = dialect.body("echo", "Hi", stream=True)
    async with client_of(defective_app(store=DefectiveStore(2)), key=KEY) as client:
        response = await client.post(dialect.path("echo"), json=body, headers={"idempotency-key": "a"})
    assert response.status_code == 200
    assert dialect.ends_with_error(response.text), response.text
    assert SECRET not in response.text
