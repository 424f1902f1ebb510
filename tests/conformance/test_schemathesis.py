"""Requests made up from the OpenAPI document, right and wrong ones: no 5xx, and no status that is not in it."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from dragoman.server.dialects import OPERATIONS
from dragoman.server.openapi import DocumentedFeatures, document
from tests.support.server import RunningServer, running_server

KEY = "sk-0123456789abcdef"

schema = schemathesis.openapi.from_dict(document(OPERATIONS, "echo", DocumentedFeatures(queue=True)))


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path = tmp_path_factory.mktemp("settings") / "dragoman.toml"
    path.write_text(f'[[keys]]\nname = "fuzzer"\nkey = "{KEY}"\n')
    with running_server("echo", "--config", str(path)) as server:
        yield server


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_operation_conforms_to_the_openapi_document(
    case: schemathesis.Case[Any], guarded_server: RunningServer
) -> None:
    case.call_and_validate(
        base_url=guarded_server.url,
        headers={"Authorization": f"Bearer {KEY}"},
        checks=[not_a_server_error, status_code_conformance, response_schema_conformance],
    )
