"""Which tests of a run on several workers share one of them, so that they never run beside each other."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # A run on one worker needs no pytest-xdist.
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling
    from xdist.workermanage import WorkerController

SHARED_FIXTURES = frozenset(
    {
        *("model", "fast_model", "shallow_model", "one_layer_model"),
        *("model_server", "steady_server", "shallow_server", "echo_server", "slow_server", "keep_alive_server"),
        "browser",
    }
)
"""They are set up once on each worker that runs one of their tests, which costs more than most tests."""

GROUPS: Mapping[str, Sequence[str]] = {
    # The bundled model in the tests' own process, in memory once.
    "models": (
        "engines/llama/native/test_control_tokens.py",
        "engines/llama/native/test_library_check.py",
        "engines/llama/native/test_loading.py",
        "engines/llama/native/test_model.py",
        "engines/llama/process/test_preprocessor.py",
        "engines/llama/process/test_public_prefixes.py",
        "engines/llama/test_continued_model_answers.py",
        "engines/llama/test_controls.py",
        "engines/llama/test_exactness.py",
        "engines/llama/test_structured_answers.py",
        "engines/llama/weights/test_sources.py",
        # The templates of open models, compiled once.
        "prompt/test_call_round_trips.py",
        "prompt/test_open_model_reasoning.py",
        "prompt/test_template_equality.py",
        "prompt/tool_formats/test_families.py",
    ),
    # They only ask servers, which are started once.
    "servers": (
        "conformance/test_access.py",
        "conformance/test_client_guides.py",
        "conformance/test_codex_requests.py",
        "conformance/test_conformance_command.py",
        "conformance/test_anthropic_sdk.py",
        "conformance/test_curl.py",
        "conformance/test_determinism.py",
        "conformance/test_hostile_requests.py",
        "conformance/test_log_likelihood.py",
        "conformance/test_openai_sdk.py",
        "conformance/test_promises.py",
        "conformance/test_vendor_clients.py",
        "dialects/vendors/infermatic/test_routes.py",
        "test_readme.py",
    ),
    # They kill processes, or wait for them.
    "processes": (
        "accounts/database/test_deadlines.py",
        "accounts/end_to_end/test_killed_workers.py",
        "accounts/process/test_client.py",
        "accounts/process/test_server.py",
        "accounts/process/test_processes.py",
        "accounts/process/test_recovery.py",
        "jobs/test_kill*.py",
        "server/test_supervisor.py",
    ),
    # They start servers and engines of their own.
    "launches": (
        "engines/llama/process/test_adapter_faults.py",
        "engines/llama/process/test_embedding_server.py",
        "engines/llama/process/test_server.py",
        "server/test_launch*.py",
    ),
    # They start browsers.
    "browser": (
        "server/console/test_browser.py",
        "server/console/test_first_hour.py",
        "server/console/test_live_browser.py",
        "server/console/test_playground.py",
    ),
    # They start what a second worker would have to start again.
    "conformance/test_embeddings.py": ("conformance/test_embeddings.py",),
    "engines/llama/embedding/test_model.py": ("engines/llama/embedding/test_model.py",),
    "conformance/test_images.py": ("conformance/test_images.py",),
    "conformance/test_large_bodies.py": ("conformance/test_large_bodies.py",),
    "server/admin/test_routes.py": ("server/admin/test_routes.py",),
    "server/test_accounting.py": ("server/test_accounting.py",),
}
"""Patterns of files, whose tests run on one worker, one after another. All other tests go to a free worker."""


@functools.cache
def group_of(path: str) -> str | None:
    """Return the group of a file below tests."""
    return next((name for name, files in GROUPS.items() if any(fnmatch(path, file) for file in files)), None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadScopeScheduling | None":
    """Schedule by the groups above, the largest first, if the run distributes by group.

    The marks of pytest-xdist have no effect on the names of tests in pytest 9.2, and so none on its own scheduler.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc] # pytest-xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return group_of(_path_of(nodeid)) or nodeid

        def mark_test_complete(self, node: "WorkerController", item_index: int, duration: float = 0) -> None:
            """Forget the test. pytest-xdist counts the pending tests among all that a worker ever had, at each end."""
            nodeid = self.registered_collections[node][item_index]
            scope = self._split_scope(nodeid)
            unit = self.assigned_work[node][scope]
            del unit[nodeid]
            if not unit:
                del self.assigned_work[node][scope]
            self._reschedule(node)

    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Raise UsageError for tests of one name, of which only one would run, and for shared fixtures without a group."""
    if repeated := [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]:
        raise pytest.UsageError(f"tests of one name, of which only one would run: {', '.join(repeated)}")
    using = [item for item in items if not SHARED_FIXTURES.isdisjoint(_fixtures_of(item))]
    paths = sorted({_path_of(item.nodeid) for item in using})
    if ungrouped := [path for path in paths if group_of(path) is None]:
        raise pytest.UsageError(f"tests of shared models, servers and browsers without a group: {', '.join(ungrouped)}")


def _fixtures_of(item: pytest.Item) -> set[str]:
    """Return the fixtures that a test uses. An argument that its parameters give is none."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return {*getattr(item, "fixturenames", ())}.difference(parameters)


def _path_of(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")
