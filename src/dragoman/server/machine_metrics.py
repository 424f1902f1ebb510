"""Gauges of what a server rests on: its ledger, and the disks that it writes to."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dragoman.gateway.ledger_connection import LedgerConnection, LedgerState

_TIMEOUT_SECONDS = 2.0
"""Time that a disk may take to report its free space."""


class DiskSpace(NamedTuple):
    """The space of the disk of a folder, in bytes."""

    free: int
    """For a user without privileges."""
    size: int


class MachineState(NamedTuple):
    """The state of a worker's ledger and disks."""

    ledger: LedgerState | None
    """None: nothing is recorded."""
    disks: Mapping[str, DiskSpace]
    """By what the folder has, such as `journals`. A disk that does not answer is not there."""


async def machine_state(connection: LedgerConnection | None, directory: str | None) -> MachineState:
    """Return the state of the ledger, if there is one, and of the disks of its folders and of temporary files."""
    folders = {} if directory is None else {"temporary": Path(directory)}
    if connection is not None:
        folders |= connection.folders
    found = await asyncio.gather(*map(_disk_space, folders.values()))
    disks = {name: space for name, space in zip(folders, found, strict=True) if space is not None}
    return MachineState(None if connection is None else connection.state(), disks)


async def _disk_space(folder: Path) -> DiskSpace | None:
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            # In a thread: a network's disk may never answer.
            found = await asyncio.to_thread(os.statvfs, folder)
    except (OSError, TimeoutError):
        return None
    return DiskSpace(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


class MachineCollector(Collector):
    """The state as gauges. That of the ledger is the state of the worker that answers."""

    def __init__(self, state: MachineState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        if (ledger := self._state.ledger) is not None:
            documentation = "Whether the worker that answers here reaches the accounts' database"
            yield GaugeMetricFamily("dragoman_database_up", documentation, value=ledger.is_available)
            documentation = "Operations of the worker that answers here, not answered yet"
            yield GaugeMetricFamily("dragoman_ledger_pending_operations", documentation, value=ledger.waiting)
            if ledger.answered_at is not None:
                name = "dragoman_ledger_last_answer_timestamp_seconds"
                documentation = "When the ledger last answered the worker that answers here, in seconds since 1970"
                yield GaugeMetricFamily(name, documentation, value=ledger.answered_at)
        free = GaugeMetricFamily("dragoman_disk_free_bytes", "Free space on the disk of a folder", labels=["folder"])
        size = GaugeMetricFamily("dragoman_disk_size_bytes", "Size of the disk of a folder", labels=["folder"])
        for folder, space in self._state.disks.items():
            free.add_metric([folder], space.free)
            size.add_metric([folder], space.size)
        yield from (free, size)
