"""Which tests of a run on several workers share one of them, so that they never run beside each other."""

from collections import Counter
from fnmatch import fnmatch

import pytest

MODEL_FIXTURES = frozenset({"model", "fast_model", "model_server", "steady_server"})
"""The bundled model, in memory once."""

PROCESS_FILES = (
    "accounts/database/test_deadlines.py",
    "accounts/end_to_end/test_killed_workers.py",
    "accounts/process/test_client.py",
    "accounts/process/test_server.py",
    "accounts/process/test_processes.py",
    "accounts/process/test_recovery.py",
    "engines/llama/process/test_server.py",
    "jobs/test_kill*.py",
    "server/test_launch*.py",
    "server/test_supervisor.py",
)
"""They kill processes, or wait for them."""

WHOLE_FILES = (
    "conformance/test_vendor_clients.py",
    "dialects/vendors/infermatic/test_routes.py",
    "server/admin/test_routes.py",
    "server/test_accounting.py",
)
"""They start what a second worker would have to start again."""


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook.
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep models on one worker, processes on one, and whole files together; all other tests go to a free worker.

    Raise UsageError for tests of one name: pytest-xdist runs only one of them.
    """
    if repeated := [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]:
        raise pytest.UsageError(f"tests of one name, of which only one would run: {', '.join(repeated)}")
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if group := _group(item, item.path.relative_to(config.rootpath / "tests").as_posix()):
                item.add_marker(pytest.mark.xdist_group(group))


def _group(item: pytest.Item, path: str) -> str | None:
    if any(fnmatch(path, pattern) for pattern in PROCESS_FILES):
        return "processes"
    if not MODEL_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
        return "models"
    return path if path in WHOLE_FILES else None
