from collections.abc import Iterator

import pytest

from dragoman.engines.llama.weights.sources import bundled
from tests.support.dialects.clients import DIALECT_CLIENTS, DialectClient
from tests.support.models import write_shallow
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


@pytest.fixture(scope="session")
def shallow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Two layers of the bundled model, called `shallow`, for tests that do not depend on the quality of answers."""
    path = write_shallow(bundled().path, tmp_path_factory.mktemp("model") / "shallow.gguf", 2)
    with running_server(str(path), environment={"DRAGOMAN_ENGINE_REPRODUCIBLE": "true"}) as server:
        yield server


@pytest.fixture(params=DIALECT_CLIENTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> DialectClient:
    """Each dialect in turn."""
    dialect: DialectClient = request.param
    return dialect
