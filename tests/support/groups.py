"""Which tests of a run on several workers share one of them, so that they never run beside each other."""

from fnmatch import fnmatch

import pytest

HEAVY_FIXTURES = frozenset({"model", "fast_model", "model_server", "steady_server"})
"""The bundled model, in memory once."""

HEAVY_FILES = (
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
"""Processes are killed, or waited for."""


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook.
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what is heavy on one worker; all else goes to whichever is free."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        path = item.path.relative_to(config.rootpath / "tests").as_posix()
        if not HEAVY_FIXTURES.isdisjoint(fixtures) or any(fnmatch(path, pattern) for pattern in HEAVY_FILES):
            item.add_marker(pytest.mark.xdist_group("heavy"))
