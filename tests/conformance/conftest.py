from collections.abc import Iterator

import pytest

from tests.support.dialects.clients import DIALECT_CLIENTS, DialectClient
from tests.support.server import RunningServer, running_server


@pytest.fixture(scope="session")
def slow_server() -> Iterator[RunningServer]:
    """The echo engine at ten tokens a second: a long answer takes longer than any test."""
    with running_server("echo", environment={"DRAGOMAN_ECHO_TOKENS_PER_SECOND": "10"}, records_usage=False) as server:
        yield server


@pytest.fixture(scope="session")
def steady_server() -> Iterator[RunningServer]:
    """The bundled model, with answers that do not depend on what it computed before."""
    with running_server(environment={"DRAGOMAN_ENGINE_REPRODUCIBLE": "true"}) as server:
        yield server


@pytest.fixture(params=DIALECT_CLIENTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> DialectClient:
    """Each dialect in turn."""
    dialect: DialectClient = request.param
    return dialect
