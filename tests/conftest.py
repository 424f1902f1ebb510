"""Servers shared by all tests of a run: starting one costs more than most tests."""

import gc
import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.server import RunningServer, running_server

_MEMORY, _MIN_MEMORY_BYTES = "/dev/shm", 4 * 2**30

pytest_plugins = ["tests.support.processor_time", "tests.support.groups", "tests.support.database_fixtures"]

# Models that are loaded in this process share the cores with other tests: their threads do not spin for long.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Other tests' processes may hold the cores for a moment; that is no failure of the example at hand.
_not_timed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dragoman", _not_timed, max_examples=25)
# What new examples find is no fault of the change that CI looks at: there, all runs have the same ones.
settings.register_profile("same-examples", _not_timed, max_examples=25, derandomize=True)
settings.load_profile("same-examples" if "CI" in os.environ else "dragoman")


def pytest_configure(config: pytest.Config) -> None:
    """Servers of all runs share a cache, so that the bundled model is rewritten once, and never in the user's own.

    Neither do they write into the user's data, nor read what an older version wrote.
    """
    gc.disable()  # Nothing of what a collection of tests makes is garbage; looking for some takes a third of its time.
    _keep_temporary_files_in_memory()
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


def _keep_temporary_files_in_memory() -> None:
    """Set the folder of temporary files, also of other processes, unless TMPDIR is set or memory is short.

    A disk takes a fifth of the tests' processor time, and now and then seconds for a commit, which are as long as a
    server waits for its database.
    """
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK | os.X_OK):
        return
    status = os.statvfs(_MEMORY)
    if status.f_bavail * status.f_frsize >= _MIN_MEMORY_BYTES and not status.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = _MEMORY


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
