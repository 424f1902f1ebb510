"""Machines of a private network: Linux namespaces of network, processes and mounts, joined by virtual Ethernet.

The network is gone when its processes have ended, however that happens: each machine's first process reads a pipe of
this one. It needs root, and the programs of Debian's util-linux and iproute2.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tests.support.timeouts import TEST_TIMEOUT_SECONDS

FRONT, DATA = "front", "data"
"""The networks: of clients, proxy and servers, and of servers and database."""

PREFIXES = {FRONT: "10.0.0", DATA: "10.0.1"}
EDGE, DATABASE = 5, 5
"""Last part of the addresses of the proxy with its clients, and of the database."""

FIRST_HOST = 11
"""Last part of the first server's address in both networks."""

SLOW_LINK = "tbf rate 384kbit burst 4kb latency 8s"
"""An admission, which is some kilobytes in three round trips, takes a large part of a second."""

_CLONE_NEWNET = 0x40000000
_PROGRAMS = ("ip", "tc", "nsenter", "unshare", "cat")
_POLL_SECONDS = 0.005


def missing(*programs: str) -> str | None:
    """Return why no network can be made here, or which of the programs that run in it is missing; None: nothing."""
    if lacking := [program for program in (*_PROGRAMS, *programs) if shutil.which(program) is None]:
        return f"the program {lacking[0]} is missing"
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    tried = subprocess.run(["unshare", "--net", "--pid", "--mount", "--fork", "true"], capture_output=True, check=False)
    return f"this system permits no namespaces: {tried.stderr.decode().strip()}" if tried.returncode else None


class Machine:
    """A machine of the network, with its own processes, addresses and view of the files."""

    def __init__(self, number: int) -> None:
        """`number` is the last part of its addresses."""
        self.number = number
        self.start()

    def start(self) -> None:
        """Switch it on, without any connection."""
        command = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "cat"]
        self._holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.first_process = self._find_first_process()
        _run_ip(self.first_process, ["link set lo up"])

    def address(self, network: str) -> str:
        """Return its address in a network."""
        return f"{PREFIXES[network]}.{self.number}"

    def run(
        self, command: Sequence[str], *, environment: dict[str, str], output: IO[str] | None = None
    ) -> "subprocess.Popen[str]":
        """Run a command on the machine."""
        entering = ["nsenter", f"--target={self.first_process}", "--net", "--mount", "--pid", "--"]
        return subprocess.Popen([*entering, *command], env=environment, stdout=output, stderr=output, text=True)

    def lose(self) -> None:
        """Let it lose power: all its processes end at the same moment."""
        if self._holder.poll() is None:
            os.kill(self.first_process, signal.SIGKILL)  # With it, the kernel kills all others.
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(TEST_TIMEOUT_SECONDS)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread, and what it starts within the block, use the machine's network."""
        with _network_of(f"/proc/{self.first_process}/ns/net"):
            yield

    def _find_first_process(self) -> int:
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        own = Path("/proc/self/ns/pid").readlink()
        deadline = time.monotonic() + TEST_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                [child] = map(int, children.read_text().split())
                # The program runs once the namespaces and their /proc are complete.
                is_complete = Path(f"/proc/{child}/comm").read_text() == "cat\n"
                if is_complete and Path(f"/proc/{child}/ns/pid").readlink() != own:
                    return child
            time.sleep(_POLL_SECONDS)
        raise AssertionError("the machine has not started")


class Network:
    """Two networks of one switch: the proxy with its clients, which is where this thread is, servers and a database.

    Use it as a context manager.
    """

    def __init__(self, hosts: int) -> None:
        self._stack = contextlib.ExitStack()
        self._count = hosts

    def __enter__(self) -> "Network":
        with contextlib.ExitStack() as stack:
            self._switch = self._machine(stack, 1)
            for name in PREFIXES:
                _run_ip(self._switch.first_process, [f"link add {name} type bridge", f"link set {name} up"])
            self.edge = self._machine(stack, EDGE)
            self.database = self._machine(stack, DATABASE)
            self.hosts = [self._machine(stack, FIRST_HOST + number) for number in range(self._count)]
            self._plug_in(self.edge, [FRONT], "edge")
            self._plug_in(self.database, [DATA], "base")
            for host in self.hosts:
                self._plug_in(host, [FRONT, DATA], f"host{host.number}")
            stack.enter_context(self.edge.entered())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._stack.close()

    def lose(self, host: Machine) -> None:
        """Let a server lose power: it says no word to anybody, and all its processes end."""
        _run_ip(self._switch.first_process, [f"link delete {network}-host{host.number}" for network in PREFIXES])
        host.lose()

    def restore(self, host: Machine) -> None:
        """Switch a server on that has lost power, and connect it."""
        host.start()
        self._plug_in(host, [FRONT, DATA], f"host{host.number}")

    def disconnect(self, host: Machine, network: str) -> None:
        """Let whatever is sent to and from a server in a network be lost in the switch, without any error."""
        self._set_port(host, network, "nomaster")

    def connect(self, host: Machine, network: str) -> None:
        """End `disconnect`."""
        self._set_port(host, network, f"master {network}")

    @contextlib.contextmanager
    def slow_database(self) -> Iterator[None]:
        """Send to and from the database with SLOW_LINK only."""
        ends = ((self._switch, f"{DATA}-base"), (self.database, DATA))
        for machine, device in ends:
            _run_tool(machine.first_process, ["tc", "qdisc", "add", "dev", device, "root", *SLOW_LINK.split()])
        try:
            yield
        finally:
            for machine, device in ends:
                _run_tool(machine.first_process, ["tc", "qdisc", "delete", "dev", device, "root"])

    def _set_port(self, host: Machine, network: str, state: str) -> None:
        name = "base" if host is self.database else f"host{host.number}"
        _run_ip(self._switch.first_process, [f"link set {network}-{name} {state}"])

    def _plug_in(self, machine: Machine, networks: Sequence[str], name: str) -> None:
        for network in networks:
            port = f"{network}-{name}"
            # An address of its own, which it keeps when it is switched on again.
            hardware = f"02:00:00:00:{len(network):02x}:{machine.number:02x}"
            peer = f"peer name {network} address {hardware} netns {machine.first_process}"
            _run_ip(
                self._switch.first_process,
                [f"link add {port} type veth {peer}", f"link set {port} master {network} up"],
            )
            _run_ip(
                machine.first_process,
                [f"addr add {machine.address(network)}/24 dev {network}", f"link set {network} up"],
            )

    def _machine(self, stack: contextlib.ExitStack, number: int) -> Machine:
        machine = Machine(number)
        stack.callback(machine.lose)
        return machine


def _run_ip(process_id: int, commands: Sequence[str]) -> None:
    """Run commands of iproute2's ip in the network of a process."""
    _run_tool(process_id, ["ip", "-batch", "-"], "\n".join(commands))


def _run_tool(process_id: int, command: Sequence[str], given: str = "") -> None:
    enter = ["nsenter", f"--net=/proc/{process_id}/ns/net", *command]
    made = subprocess.run(enter, input=given, text=True, capture_output=True, check=False)
    assert made.returncode == 0, f"{command} {given}: {made.stderr}"


@contextlib.contextmanager
def _network_of(path: str) -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _set_namespace(libc, os.open(path, os.O_RDONLY))
        yield
    finally:
        _set_namespace(libc, before)


def _set_namespace(libc: ctypes.CDLL, descriptor: int) -> None:
    try:
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "the network's namespace cannot be entered")
    finally:
        os.close(descriptor)
