"""The OpenAPI document lists every route, its examples work, and responses match it."""

import contextlib
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from starlette.routing import Route

from dragoman.core.errors import BadRequest
from dragoman.dialects.http.operation import Operation
from dragoman.gateway.execution.response_store import DatabaseResponseStore
from dragoman.server import admin
from dragoman.server.dialects import DIALECTS
from dragoman.server.dialects import OPERATIONS as BY_DIALECT
from dragoman.server.openapi import DocumentedFeatures, document, example_body
from tests.support.accounting import ADMIN_KEY, accounting_at, open_ledger_harness
from tests.support.apps import client_of, echo_app
from tests.support.echo_engines import AdaptableEcho, GatedEcho
from tests.support.jobs.http_queue_harness import RESPOND_ASYNC, job_when_ended, queue_client
from tests.support.tiny_llama import write_adapter

DOCUMENT = document(BY_DIALECT, "echo")
OPERATIONS = [(tag, operation) for tag, dialect in DIALECTS.items() for operation in dialect.OPERATIONS]
EXAMPLES = [operation for _, operation in OPERATIONS if operation.example is not None]
LOOKUPS = [operation for _, operation in OPERATIONS if operation.method == "GET" and operation.chunk is None]

UNDOCUMENTED = {"/health", "/ready", "/metrics", "/openapi.json", "/docs"}


def assert_valid(schema: dict[str, Any], value: object) -> None:
    jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def schema_of(path: str, method: str, status: int, kind: str = "application/json") -> dict[str, Any]:
    schema: dict[str, Any] = DOCUMENT["paths"][path][method.lower()]["responses"][str(status)]["content"][kind][
        "schema"
    ]
    return schema


def test_every_served_route_is_documented_and_nothing_else() -> None:
    served = {
        (method, re.sub(r":path\}", "}", route.path))
        for route in echo_app().routes
        if isinstance(route, Route) and getattr(route.endpoint, "__name__", "") not in ("_not_served", "not_allowed")
        for method in (route.methods or set()) - {"HEAD"}
        if route.path not in UNDOCUMENTED
    }
    assert served == {(operation.method, operation.path) for _, operation in OPERATIONS}


def test_the_admin_api_is_documented_where_it_is_served_and_only_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/accounts.db"
    with open_ledger_harness(url), accounting_at(url, tmp_path) as accounting:
        for app in (echo_app(accounting=accounting), echo_app(admin_keys={ADMIN_KEY: "ada"})):
            assert not any("/admin" in str(route) for route in app.routes)
        app = echo_app(accounting=accounting, admin_keys={ADMIN_KEY: "ada"})
        served = {
            (method, route.path.replace(":path}", "}"))
            for route in app.routes
            if isinstance(route, Route) and route.path.startswith("/admin")
            for method in (route.methods or set()) - {"HEAD"}
        }
    assert served == {(operation.method, operation.path) for operation in admin.OPERATIONS}
    described = document({**BY_DIALECT, "admin": admin.OPERATIONS}, "echo")
    names = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names)) == len(OPERATIONS) + len(served)


async def test_the_documentation_is_served_below_the_root_path() -> None:
    async with client_of(echo_app(root_path="/llm")) as client:
        for prefix in ("", "/llm"):
            page = (await client.get(f"{prefix}/docs")).text
            links = re.findall(r'(?:href|src|url)(?:=|: )"([^"]*)"', page)
            assert len(links) == 3
            for link in links:
                assert link.startswith("/llm/")
                assert (await client.get(link)).status_code == 200
            assert (await client.get(f"{prefix}/openapi.json")).json()["servers"] == [{"url": "/llm"}]
        assert (await client.get("/llm")).status_code == 404
        assert (await client.get("/llmodels")).status_code == 404
    async with client_of(echo_app()) as client:
        assert "servers" not in (await client.get("/openapi.json")).json()


def test_the_idempotency_key_is_documented_where_responses_are_stored() -> None:
    paths = document(BY_DIALECT, "echo", DocumentedFeatures(idempotency=True))["paths"]
    for _, operation in OPERATIONS:
        documented, undocumented = (
            each[operation.path][operation.method.lower()] for each in (paths, DOCUMENT["paths"])
        )
        generates = operation.generates
        assert ("Idempotency-Key" in str(documented["parameters"]), "409" in documented["responses"]) == (
            generates,
            generates,
        )
        assert "Idempotency-Key" not in str(undocumented)


def test_queue_headers_are_documented_where_there_is_a_queue() -> None:
    paths = document(BY_DIALECT, "echo", DocumentedFeatures(queue=True))["paths"]
    for _, operation in OPERATIONS:
        documented, undocumented = (
            each[operation.path][operation.method.lower()] for each in (paths, DOCUMENT["paths"])
        )
        may_be_queued = operation.generates and (operation.chunk is not None or operation.is_queueable)
        assert ("'Prefer'" in str(documented["parameters"]), "202" in documented["responses"]) == (
            may_be_queued,
            may_be_queued,
        )
        assert ("x-dragoman-webhook" in str(documented["parameters"])) == operation.generates
        assert ("Idempotency-Key" in str(documented["parameters"])) == operation.is_always_queued
        assert "202" not in undocumented["responses"]


def test_every_dialect_is_a_tag_and_every_operation_has_a_name_of_its_own() -> None:
    assert {tag["name"] for tag in DOCUMENT["tags"]} == set(DIALECTS)
    names = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names)) == len(OPERATIONS)


@pytest.mark.parametrize("operation", EXAMPLES, ids=lambda operation: f"{operation.method} {operation.path}")
async def test_each_example_is_answered_as_the_document_says(operation: Operation, tmp_path: Path) -> None:
    write_adapter(tmp_path / "pirate.gguf", {})
    assert operation.example is not None
    body = example_body(operation.example, "echo")
    assert_valid(
        DOCUMENT["paths"][operation.path]["post"]["requestBody"]["content"]["application/json"]["schema"], body
    )
    async with contextlib.AsyncExitStack() as stack:
        if operation.is_always_queued:
            client = await stack.enter_async_context(queue_client())
        else:
            client = await stack.enter_async_context(client_of(echo_app(engine=AdaptableEcho(), adapter_dir=tmp_path)))
        response = await client.post(re.sub(r"\{\w+\}", "echo", operation.path), json=body)
        assert response.status_code == 200, response.text
        assert_valid(schema_of(operation.path, "POST", 200), response.json())


async def test_job_responses_match_the_document() -> None:
    documented = document(BY_DIALECT, "echo", DocumentedFeatures(queue=True))["paths"]["/queue/chat/completions"][
        "post"
    ]["responses"]["202"]
    path = "/queue/response/{id}"
    async with queue_client(GatedEcho(BadRequest("Odd", "messages"))) as client:
        for status in ("failed", "finished"):
            body = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}
            queued = (await client.post("/queue/chat/completions", json=body, headers=RESPOND_ASYNC)).json()
            assert_valid(documented["content"]["application/json"]["schema"], queued)
            job = await job_when_ended(client, queued["url"])
            assert job["status"] == status
            assert_valid(schema_of(path, "GET", 200), job)
            assert_valid(schema_of(path, "DELETE", 200), (await client.delete(queued["url"])).json())
        missing = await client.get(f"/queue/response/job_{'0' * 32}")
        assert_valid(schema_of(path, "GET", 404), missing.json())


@pytest.mark.parametrize("operation", LOOKUPS, ids=lambda operation: f"{operation.method} {operation.path}")
async def test_each_lookup_is_answered_as_the_document_says(operation: Operation, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/accounts.db"
    with open_ledger_harness(url) as harness, accounting_at(url, tmp_path) as accounting:
        harness.settle(harness.admit().request_id)
        store = DatabaseResponseStore(harness.database)
        app = echo_app(accounting=accounting, response_store=store)
        async with accounting.opened(), store.opened(), client_of(app, key=harness.secret) as client:
            stored = (await client.post("/v1/responses", json={"model": "echo", "input": "Hi"})).json()
            path = operation.path.replace("{response_id}", stored["id"])
            response = await client.get(re.sub(r"\{\w+\}", "echo", path))
        assert response.status_code == 200, response.text
        assert_valid(schema_of(operation.path, "GET", 200), response.json())


async def test_the_document_and_swagger_ui_are_served_without_any_other_host() -> None:
    async with client_of(echo_app()) as client:
        assert (await client.get("/openapi.json")).json()["openapi"] == "3.1.0"
        page = (await client.get("/docs")).text
        assert "http://" not in page
        assert "https://" not in page
        for file in re.findall(r'(?:href|src)="([^"]+)"', page):
            assert (await client.get(file)).status_code == 200
