"""What a run takes of the processors. A whole run tells it by folder, and fails when it is above its budget.

Wall time tells how busy the machine is, processor time what the tests cost. Counted are the run's own process,
pytest-xdist's workers, every process that they waited for, and what `count` is told of others.
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
"""Options that make a run no whole one."""

_uncounted: list[float] = []
"""Seconds of processes that are nobody's children, since the last test."""


def count(seconds: float) -> None:
    """Add what a process has taken that this one cannot wait for."""
    _uncounted.append(seconds)


def seconds_of(process: psutil.Process) -> float:
    """What a living process has taken, and those that it waited for; 0 when it is gone."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


class ProcessorTime:
    """A plugin of one process of a run; registered by `pytest_configure`."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._by_folder: defaultdict[str, float] = defaultdict(float)
        self._counted = 0.0
        """What is in a folder already."""
        self._too_much = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Measure a test, with the fixtures that it sets up and those that end after it."""
        self._charge(_OTHER)
        result = yield
        self._charge(item.nodeid.partition("::")[0].rpartition("/")[0])
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """In a worker, tell the run's own process; there, judge."""
        if not self._distributes:
            for child in psutil.Process().children(recursive=True):  # A fork server is never waited for.
                count(seconds_of(child))
        self._charge(_OTHER)
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[_OUTPUT] = dict(self._by_folder)
        elif self._is_whole and 0 < self._budget < self._total:
            self._too_much = True
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add up what a worker took."""
        output: Mapping[str, float] = getattr(node, "workeroutput", {}).get(_OUTPUT, {})
        for folder, seconds in output.items():
            self._by_folder[folder] += seconds

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Tell where the time went."""
        if not self._is_whole:
            return
        terminalreporter.write_sep("=", "processor seconds")
        for folder, seconds in sorted(self._by_folder.items(), key=lambda item: -item[1]):
            terminalreporter.write_line(f"{seconds:8.1f}  {folder}")
        terminalreporter.write_line(f"{self._total:8.1f}  together, of at most {self._budget:g}")
        if self._too_much:
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
        """By this process and those it waited for; the run's own waited for workers, which tell theirs themselves."""
        whose = [resource.RUSAGE_SELF, *([] if self._distributes else [resource.RUSAGE_CHILDREN])]
        usages = map(resource.getrusage, whose)
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the settings state the budget."""
    parser.addini(
        _BUDGET, "what a whole run may take of the processors, all processes together; 0: anything", default=0
    )


def pytest_configure(config: pytest.Config) -> None:
    """Measure from here on."""
    config.pluginmanager.register(ProcessorTime(config), "processor-time")
