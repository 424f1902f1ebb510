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


WHOLE_FILES = (
    "conformance/test_schemathesis.py",
    "conformance/test_vendor_clients.py",
    "dialects/vendors/infermatic/test_routes.py",
    "server/admin/test_routes.py",
    "server/test_accounting.py",
)
"""They start for themselves what a second worker would have to start again."""


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook.
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what is heavy on one worker, and whole files on any one; all else goes to whichever is free."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if group := _group(item, item.path.relative_to(config.rootpath / "tests").as_posix()):
                item.add_marker(pytest.mark.xdist_group(group))


def _group(item: pytest.Item, path: str) -> str | None:
    fixtures = getattr(item, "fixturenames", ())
    if not HEAVY_FIXTURES.isdisjoint(fixtures) or any(fnmatch(path, pattern) for pattern in HEAVY_FILES):
        return "heavy"
    return path if path in WHOLE_FILES else None
