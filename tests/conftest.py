"""Servers shared by all tests of a run: starting one costs more than most tests."""

import gc
import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.server import RunningServer, running_server

pytest_plugins = ["tests.support.processor_time", "tests.support.groups", "tests.support.database_fixtures"]

# As the server does for its engine: models loaded in this process share the cores with other tests' servers.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Other tests' processes may hold the cores for a moment; that is no failure of the example at hand.
settings.register_profile("dragoman", deadline=None, max_examples=40)
settings.load_profile("dragoman")


def pytest_configure(config: pytest.Config) -> None:
    """Servers of all runs share a cache, so that the bundled model is rewritten once, and never in the user's own.

    Neither do they write into the user's data, nor read what an older version wrote.
    """
    gc.disable()  # Nothing of what a collection of tests makes is garbage; looking for some takes a third of its time.
    os.environ["XDG_DATA_HOME"] = _temporary_folder(config)
    if hasattr(config, "workerinput"):
        return  # The cache is that of the run's own process, which is in the environment.
    cache: pytest.Cache | None = getattr(config, "cache", None)  # It may be switched off.
    os.environ["XDG_CACHE_HOME"] = _temporary_folder(config) if cache is None else str(cache.mkdir("servers"))


def pytest_collection_finish() -> None:
    """Exempt the tests themselves, some million objects, from every later garbage collection."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # Their cycles are few; by default the search takes a twentieth of their time.
    gc.enable()


def _temporary_folder(config: pytest.Config) -> str:
    folder = tempfile.TemporaryDirectory()
    config.add_cleanup(folder.cleanup)
    return folder.name


@pytest.fixture(scope="session")
def echo_server() -> Iterator[RunningServer]:
    """The echo engine behind one HTTP worker."""
    with running_server("echo") as server:
        yield server


@pytest.fixture(scope="session")
def keep_alive_server() -> Iterator[RunningServer]:
    """The echo engine at four tokens a second, with comments after a tenth of a second of silence."""
    environment = {"DRAGOMAN_SSE_KEEP_ALIVE_SECONDS": "0.1", "DRAGOMAN_ECHO_TOKENS_PER_SECOND": "4"}
    with running_server("echo", environment=environment) as server:
        yield server


@pytest.fixture(scope="session")
def model_server() -> Iterator[RunningServer]:
    """The bundled model behind one HTTP worker, with the settings a newcomer gets, but for the engine's one thread."""
    with running_server() as server:
        yield server
