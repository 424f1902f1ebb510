"""Memory and file descriptors of a server's processes, from /proc."""

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
    """Pages in memory, shared ones included. The proportional size would change when other processes that share a
    library's pages start or end."""
    descriptors: int


def measure_processes(process_id: int) -> dict[int, ProcessUsage]:
    """Measure a process and its living descendants, by process id. Those that end meanwhile are left out."""
    usage: dict[int, ProcessUsage] = {}
    for each in _descendants(process_id):
        folder = Path(f"/proc/{each}")
        try:
            status = folder.joinpath("status").read_text().splitlines()
            resident = next(line for line in status if line.startswith("VmRSS:"))
            descriptors = sum(1 for _ in folder.joinpath("fd").iterdir())
            usage[each] = ProcessUsage(_name(folder), int(resident.split()[1]), descriptors)
        except (OSError, StopIteration):
            continue
    return usage


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
