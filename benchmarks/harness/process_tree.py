"""Memory, processor time and file descriptors of a server's processes, from /proc."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_NAMES = {
    "dragoman.server.worker": "worker",
    "dragoman.engines.llama.process": "engine",
    "dragoman.accounts.process.server": "ledger",
    "serve": "parent",
}


class ProcessUsage(NamedTuple):
    """What one process uses."""

    name: str
    resident_kibibytes: int
    """Pages in memory, shared ones included. The proportional size changes when other processes that share a library's
    pages start or end."""
    proportional_kibibytes: int
    """Pages in memory; one that several processes share counts in parts."""
    descriptors: int
    processor_seconds: float


def measure_processes(process_id: int) -> dict[int, ProcessUsage]:
    """Measure a process and its living descendants, by process id. Those that end meanwhile are left out."""
    usage: dict[int, ProcessUsage] = {}
    for each in _descendants(process_id):
        folder = Path(f"/proc/{each}")
        try:
            status = folder.joinpath("status").read_text().splitlines()
            resident = next(line for line in status if line.startswith("VmRSS:"))
            descriptors = sum(1 for _ in folder.joinpath("fd").iterdir())
            memory = folder.joinpath("smaps_rollup").read_text().splitlines()
            proportional = next(line for line in memory if line.startswith("Pss:"))
            usage[each] = ProcessUsage(
                name=_name(folder),
                resident_kibibytes=int(resident.split()[1]),
                proportional_kibibytes=int(proportional.split()[1]),
                descriptors=descriptors,
                processor_seconds=_processor_seconds(folder),
            )
        except (OSError, StopIteration):
            continue
    return usage


def _processor_seconds(folder: Path) -> float:
    """Return what the process itself took, without its children."""
    user, system = map(int, folder.joinpath("stat").read_text().rpartition(")")[2].split()[11:13])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def _descendants(process_id: int) -> Iterator[int]:
    yield process_id
    try:
        tasks = list(Path(f"/proc/{process_id}/task").iterdir())
        children = [child for task in tasks for child in task.joinpath("children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield from _descendants(int(child))


def _name(folder: Path) -> str:
    arguments = folder.joinpath("cmdline").read_text().split("\0")
    found = next((name for argument, name in _NAMES.items() if argument in arguments), None)
    return found or next((part for part in reversed(arguments) if part.startswith("dragoman.")), arguments[0])
