"""Messages to systemd."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragoman.server.systemd import ServiceManager
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket that receives messages, and its address as systemd writes it."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@dragoman-test-{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        receiver.settimeout(TEST_TIMEOUT_SECONDS)
        yield receiver, address


def test_each_state_is_reported_and_children_cannot_report(manager: tuple[socket.socket, str]) -> None:
    receiver, address = manager
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    service = ServiceManager.take(environment)
    assert environment == {"HOME": "/"}
    service.report_ready()
    service.report_reloading()
    service.report_stopping()
    ready, reloading, stopping = (receiver.recv(1024).decode() for _ in range(3))
    assert (ready, stopping) == ("READY=1", "STOPPING=1")
    first, _, second = reloading.partition("\n")
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")


async def test_the_watchdog_gets_signs_of_life_while_the_loop_runs(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.setblocking(False)
        async with ServiceManager.take({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000"}).watched():
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
                assert [await loop.sock_recv(receiver, 1024) for _ in range(3)] == [b"WATCHDOG=1"] * 3


async def test_without_systemd_or_with_a_dead_one_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "absent"), "WATCHDOG_USEC": "1000000"}):
        service = ServiceManager.take(dict(environment))
        async with service.watched():
            service.report_ready()
