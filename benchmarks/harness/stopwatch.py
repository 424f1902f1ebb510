"""Measurement of elapsed time and of the processor time of servers, this process and others."""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.harness.processes import Server

BENCHMARK_PROCESS = ""
"""The name of this process among those of the servers."""


class Stopwatch:
    """Measures its block. Without /proc, everything but `seconds` is NaN."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self._process_ids = {name: server.process_id for name, server in servers.items()}
        self.seconds = 0.0
        self.cores: dict[str, float] = {}
        """Cores that each server and this process (BENCHMARK_PROCESS) used. 1.0: one core all the time."""
        self.other_cores = 0.0
        """Cores that other processes used, or the hypervisor for other machines. Above 0.1, measure again."""

    def __enter__(self) -> Self:
        self._cpu_before = self._cpu()
        self._machine_before = _machine_cpu_seconds()
        self._started_at = time.perf_counter()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._started_at
        cpu_used = {name: now - self._cpu_before[name] for name, now in self._cpu().items()}
        self.cores = {name: seconds / self.seconds for name, seconds in cpu_used.items()}
        machine = _machine_cpu_seconds() - self._machine_before
        self.other_cores = max(0.0, (machine - sum(cpu_used.values())) / self.seconds)

    def _cpu(self) -> dict[str, float]:
        servers = {name: cpu_seconds(process_id) for name, process_id in self._process_ids.items()}
        return {BENCHMARK_PROCESS: time.process_time(), **servers}


def cpu_seconds(process_id: int) -> float:
    """Return the processor time of a process and its living descendants."""
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        tasks = list(Path(f"/proc/{process_id}/task").iterdir())
        children = [child for task in tasks for child in task.joinpath("children").read_text().split()]
    except OSError:
        return math.nan
    user, system = map(int, fields[11:13])  # Fields 14 and 15 of proc(5). The first two are cut off.
    return (user + system) / os.sysconf("SC_CLK_TCK") + sum(cpu_seconds(int(child)) for child in children)


def _machine_cpu_seconds() -> float:
    """Return the processor time of all cores that was not idle."""
    try:
        with Path("/proc/stat").open() as statistics:
            fields = statistics.readline().split()
    except OSError:
        return math.nan
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(int, fields[1:9])
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")
