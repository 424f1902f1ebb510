"""The processor time of a run. A whole run reports it by folder, and fails above its budget.

Wall time depends on how busy the machine is, processor time on the tests. It includes the run's own process,
pytest-xdist's workers, every process that they waited for, and what `count` adds for others.
"""

import resource
from collections import defaultdict
from collections.abc import Generator, Mapping
from typing import Any

import psutil
import pytest

_BUDGET = "processor_budget_seconds"
_OUTPUT = "processor_seconds_by_folder"
_OTHER = "(between tests)"

_SELECTING = ("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf", "stepwise", "collectonly")
"""Options that select a part of the tests."""

_uncounted: list[float] = []
"""Seconds of processes that are not children of this one, since the last test."""


def count(seconds: float) -> None:
    """Add the processor time of a process that this one cannot wait for."""
    _uncounted.append(seconds)


def seconds_of(process: psutil.Process) -> float:
    """Return the processor time of a running process and those that it waited for. 0 if it has ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


class ProcessorTime:
    """The plugin in one process of a run. `pytest_configure` registers it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._by_folder: defaultdict[str, float] = defaultdict(float)
        self._counted = 0.0
        """Seconds that are charged to a folder."""
        self._exceeds_budget = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Measure a test, with the fixtures that it sets up and those that are torn down after it."""
        self._charge(_OTHER)
        result = yield
        self._charge(item.nodeid.partition("::")[0].rpartition("/")[0])
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Report to the run's own process, which compares the sum with the budget."""
        if not self._distributes:
            for child in psutil.Process().children(recursive=True):  # A fork server is never waited for.
                count(seconds_of(child))
        self._charge(_OTHER)
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[_OUTPUT] = dict(self._by_folder)
        elif self._is_whole and 0 < self._budget < self._total:
            self._exceeds_budget = True
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add the processor time of a worker."""
        output: Mapping[str, float] = getattr(node, "workeroutput", {}).get(_OUTPUT, {})
        for folder, seconds in output.items():
            self._by_folder[folder] += seconds

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Report the processor time by folder."""
        if not self._is_whole:
            return
        terminalreporter.write_sep("=", "processor seconds")
        for folder, seconds in sorted(self._by_folder.items(), key=lambda item: -item[1]):
            terminalreporter.write_line(f"{seconds:8.1f}  {folder}")
        terminalreporter.write_line(f"{self._total:8.1f}  in total, of at most {self._budget:g}")
        if self._exceeds_budget:
            terminalreporter.write_line(f"FAILED: the run took more than {_BUDGET} in pyproject.toml", red=True)

    @property
    def _is_whole(self) -> bool:
        chosen = self._config.args_source is not pytest.Config.ArgsSource.TESTPATHS
        return not chosen and not any(self._config.getoption(option, None) for option in _SELECTING)

    @property
    def _distributes(self) -> bool:
        return bool(self._config.getoption("dist", "no") != "no")

    @property
    def _budget(self) -> float:
        return float(self._config.getini(_BUDGET))

    @property
    def _total(self) -> float:
        return sum(self._by_folder.values())

    def _charge(self, folder: str) -> None:
        taken = self._taken()
        self._by_folder[folder] += taken - self._counted + sum(_uncounted)
        self._counted = taken
        _uncounted.clear()

    def _taken(self) -> float:
        """Return the processor time of this process and its children, without workers, which report their own."""
        kinds = [resource.RUSAGE_SELF, *([] if self._distributes else [resource.RUSAGE_CHILDREN])]
        usages = map(resource.getrusage, kinds)
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the setting of the budget."""
    parser.addini(_BUDGET, "processor time that a whole run may take, in all its processes; 0: unlimited", default=0)


def pytest_configure(config: pytest.Config) -> None:
    """Start measuring."""
    config.pluginmanager.register(ProcessorTime(config), "processor-time")
