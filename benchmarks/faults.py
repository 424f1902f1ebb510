"""Random faults in a server's processes, disk and database under 32 clients: is everybody answered, does it heal?

    .venv/bin/python -m benchmarks.faults --faults 10 --seed 1 --database postgresql

A fault is a process killed, paused or stopped for good, a full disk, a read-only database, a deleted folder, or a step
of the wall clock, which every process reads through a module `sitecustomize` that adds the seconds of a shared file.
After each, the server must serve again without help. Only who is a server's own supervisor helps: it restarts a parent
that was killed or stopped, and continues a stopped PostgreSQL. Every client must get an answer or an error of its
dialect before its deadline; a connection may only be cut when a process that held it died. At the end the books must
balance.

Not covered: a read-only disk under SQLite (no file system with open files can be made read-only), and steps of
PostgreSQL's clock.
"""

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psycopg

from benchmarks.databases import KINDS
from benchmarks.harness.processes import exit_on_sigterm
from dragoman.accounts.administration.accounts import Account, find_account
from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from tests.support.ledger_harness import CACHED_PRICE, COMPLETION_PRICE, PROMPT_PRICE
from tests.support.metered import AccountFixture
from tests.support.postgresql import PostgresServer, new_database, running_postgresql
from tests.support.processes.killable_server import KillableServer, killable_server
from tests.support.server import ENGINE_PROCESS, LEDGER_PROCESS, WORKER_PROCESS, children_of

CLIENTS = 32
DEADLINE_SECONDS = 60.0
"""Time that a client waits for the end of its answer."""

HEAL_SECONDS = 90.0
"""Time that the server has to serve again after a fault."""

_MAX_CLOCK_STEP_SECONDS = 7200

_CLOCK_MODULE = """
import mmap, os, struct, time

with open(os.environ["FAULTS_CLOCK"], "rb") as file:
    seconds = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
plain, plain_ns = time.time, time.time_ns
time.time = lambda: plain() + struct.unpack("q", seconds)[0]
time.time_ns = lambda: plain_ns() + struct.unpack("q", seconds)[0] * 10**9
"""

_DISK_BYTES = 64 * 2**20
_MAX_PAUSE_SECONDS = 8.0
_MODEL = "smollm2-135m-instruct"
_PATHS = ("/v1/chat/completions", "/v1/completions")


class Machine(NamedTuple):
    """What faults act on."""

    server: KillableServer
    disk: Path
    """Holds the server's temporary folder, the journals and SQLite's database."""
    postgresql: PostgresServer | None
    rng: random.Random

    def processes(self, target: str) -> list[int]:
        """Return the process ids of one kind of process."""
        parent = self.server.process_id
        workers = children_of(parent, WORKER_PROCESS)
        match target:
            case "parent":
                return [parent]
            case "worker":
                return workers
            case "ledger":
                return [ledger for worker in workers for ledger in children_of(worker, LEDGER_PROCESS)]
            case "engine":
                return children_of(parent, ENGINE_PROCESS)
            case _:
                assert self.postgresql is not None
                postmaster: Any = self.postgresql.get_postmaster_info().process
                return [postmaster.pid, *(child.pid for child in postmaster.children())]

    def signal(self, processes: Sequence[int], number: signal.Signals) -> None:
        """Send a signal to processes, some of which may have ended."""
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


async def kill(machine: Machine, target: str) -> None:
    """Kill one process; of PostgreSQL, the one that serves a connection, upon which it restarts by itself."""
    processes = await asyncio.to_thread(machine.processes, target)
    candidates = processes[1:] if target == "postgresql" else processes
    if candidates:
        machine.signal([machine.rng.choice(candidates)], signal.SIGKILL)
    if target == "parent":
        await asyncio.to_thread(machine.server.restart)


async def pause(machine: Machine, target: str) -> None:
    """Stop processes for some seconds."""
    processes = await asyncio.to_thread(machine.processes, target)
    machine.signal(processes, signal.SIGSTOP)
    await asyncio.sleep(machine.rng.uniform(0.5, _MAX_PAUSE_SECONDS))
    machine.signal(processes, signal.SIGCONT)


async def stop(machine: Machine, target: str) -> None:
    """Stop processes for good, or until their own supervisor notices."""
    processes = await asyncio.to_thread(machine.processes, target)
    machine.signal(processes, signal.SIGSTOP)
    if target == "parent":
        await asyncio.sleep(_MAX_PAUSE_SECONDS)
        await asyncio.to_thread(machine.server.restart)
    elif target == "postgresql":
        await asyncio.sleep(4 * _MAX_PAUSE_SECONDS)
        machine.signal(processes, signal.SIGCONT)


async def fill_disk(machine: Machine, _target: str) -> None:
    """Fill the disk for some seconds."""
    filler = machine.disk / "filler"
    await asyncio.to_thread(_fill, filler)
    await asyncio.sleep(machine.rng.uniform(0.5, _MAX_PAUSE_SECONDS))
    await asyncio.to_thread(filler.unlink)


async def forbid_writes(machine: Machine, _target: str) -> None:
    """Make PostgreSQL read-only for some seconds, as during a fail-over."""
    assert machine.postgresql is not None
    for value in ("on", "off"):
        await asyncio.to_thread(_set_read_only, machine.postgresql, value)
        await asyncio.sleep(machine.rng.uniform(0.5, _MAX_PAUSE_SECONDS) if value == "on" else 0)


async def delete_folder(machine: Machine, target: str) -> None:
    """Delete the folder of sockets and metrics, or that of the journals."""
    folders = list(machine.disk.glob("dragoman-run-*")) if target == "parent" else [machine.disk / "journals"]
    for folder in folders:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def step_clock(machine: Machine, _target: str) -> None:
    """Set the wall clock of all processes forward or back. Monotonic clocks go on."""
    _set_clock(machine.disk, machine.rng.randint(-_MAX_CLOCK_STEP_SECONDS, _MAX_CLOCK_STEP_SECONDS))


def _set_clock(disk: Path, seconds: int) -> None:
    path = disk / "clock"
    with path.open("r+b" if path.exists() else "wb", buffering=0) as file:
        file.write(struct.pack("q", seconds))


def _clock_environment(disk: Path) -> dict[str, str]:
    _set_clock(disk, 0)
    (disk / "sitecustomize.py").write_text(_CLOCK_MODULE, encoding="ascii")
    path = os.pathsep.join([str(disk), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"FAULTS_CLOCK": str(disk / "clock"), "PYTHONPATH": path}


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for block_bytes in (2**16, 2**12):
            with contextlib.suppress(OSError):
                while file.write(bytes(block_bytes)):
                    pass


def _set_read_only(server: PostgresServer, value: str) -> None:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
        connection.execute("SELECT pg_reload_conf()")


Fault = Callable[[Machine, str], Any]


def applicable_faults(database: str) -> list[tuple[Fault, str]]:
    """Return all pairs of faults and targets for a kind of database."""
    targets = ["parent", "worker", "ledger", "engine", *(["postgresql"] if database == "postgresql" else [])]
    pairs: list[tuple[Fault, str]] = [(fault, target) for fault in (kill, pause, stop) for target in targets]
    pairs += [(fill_disk, "disk"), (delete_folder, "parent"), (delete_folder, "worker"), (step_clock, "server")]
    return [*pairs, (forbid_writes, "postgresql")] if database == "postgresql" else pairs


class Clients:
    """Clients that ask again and again. Use it as an async context manager."""

    def __init__(self, url: str, key: str, rng: random.Random) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        """What no client may experience."""
        self.may_cut = True
        """Whether a process that holds connections is being killed."""
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}
        self._rng = rng

    async def __aenter__(self) -> "Clients":
        self._session = aiohttp.ClientSession(
            self._url,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=DEADLINE_SECONDS),
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
        )
        self._tasks = [asyncio.create_task(self._ask_forever()) for _ in range(CLIENTS)]
        return self

    async def __aexit__(self, *_raised: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def ask(self, path: str, *, stream: bool) -> str:
        """Send one request and return what became of it."""
        body: dict[str, object] = {"model": _MODEL, "max_tokens": 4, "stream": stream}
        body |= {"prompt": "Once"} if path == _PATHS[1] else {"messages": [{"role": "user", "content": "Hello"}]}
        try:
            async with self._session.post(path, json=body) as response:
                text = await response.text()
        except TimeoutError:
            return "deadline passed"
        except aiohttp.ClientConnectorError:
            return "refused"
        except (aiohttp.ClientError, ConnectionError):
            return "cut"
        is_envelope = '"error"' in text
        if response.status != 200:
            return f"status {response.status}" if is_envelope else f"status {response.status} without envelope"
        if not stream or "[DONE]" in text:
            return "answered"
        return "error in stream" if is_envelope else "cut"

    async def _ask_forever(self) -> None:
        while True:
            outcome = await self.ask(self._rng.choice(_PATHS), stream=self._rng.random() < 0.7)
            self.outcomes[outcome] += 1
            is_cut = outcome in ("cut", "refused") and not self.may_cut
            if outcome in ("deadline passed", "status 401") or "without" in outcome or is_cut:
                self.failures.append(outcome)
            if outcome != "answered":
                await asyncio.sleep(0.2)  # As clients do that back off.

    async def wait_until_served(self) -> float:
        """Ask until all kinds of requests are answered and /ready says so. Returns the seconds; raises TimeoutError."""
        began = time.monotonic()
        async with asyncio.timeout(HEAL_SECONDS):
            while True:
                if await self._is_served():
                    return time.monotonic() - began
                await asyncio.sleep(0.5)

    async def _is_served(self) -> bool:
        for path in _PATHS:
            if await self.ask(path, stream=True) != "answered":
                return False
        try:
            async with self._session.get("/ready") as ready:
                return ready.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


async def run(machine: Machine, clients: Clients, options: argparse.Namespace) -> Counter[str]:
    """Inject the faults one after the other. Raises AssertionError with the one that the server did not survive."""
    injected: Counter[str] = Counter()
    pairs = [pair for pair in applicable_faults(options.database) if options.only in _name(*pair)]
    await clients.wait_until_served()
    for number in range(options.faults):
        fault, target = machine.rng.choice(pairs)
        name = _name(fault, target)
        clients.failures.clear()
        clients.may_cut = fault in (kill, stop) and target in ("parent", "worker")
        await asyncio.sleep(machine.rng.uniform(0, 2))
        await fault(machine, target)
        try:
            seconds = await clients.wait_until_served()
        except TimeoutError:
            raise AssertionError(f"fault {number + 1}, {name}: not served after {HEAL_SECONDS:g} s") from None
        assert not clients.failures, f"fault {number + 1}, {name}: {Counter(clients.failures)}"
        injected[name] += 1
        print(f"{number + 1:3} {name:20} served after {seconds:5.1f} s", file=sys.stderr, flush=True)
    return injected


def _name(fault: Fault, target: str) -> str:
    return f"{fault.__name__} {target}"


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """Mount a small file system for the block. Exit if that is not permitted."""
    with tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp") as folder:  # A short path: it holds sockets.
        options = f"size={_DISK_BYTES},mode=0700"
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False).returncode == 0
        if not mounted:
            sys.exit("faults: a tmpfs cannot be mounted here; run it as root")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def _database(kind: str, disk: Path) -> Iterator[tuple[str, PostgresServer | None]]:
    if kind == "sqlite":
        yield f"sqlite:///{disk}/accounts.db", None
    else:
        with running_postgresql() as server:
            yield new_database(server), server


def _prepare(url: str) -> AccountFixture:
    database = Database(url)
    upgrade(database)
    fixture = AccountFixture(database)
    set_price(database, _MODEL, PROMPT_PRICE, COMPLETION_PRICE, cached=CACHED_PRICE)
    return fixture


def _check_books(url: str) -> Account:
    """Check that nothing is held and all sums balance, after the last server has settled for the dead ones."""
    database = Database(url)
    discrepancies = find_discrepancies(database)
    account = find_account(database, "acme")
    database.close()
    assert discrepancies == [], discrepancies
    assert account.holds == 0, account
    return account


def main() -> None:
    """Inject the faults, check clients and books, and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and moments (default: 1)")
    parser.add_argument("--database", choices=KINDS, default="sqlite", help="default: sqlite")
    parser.add_argument("--only", default="", help="only faults whose name contains this, such as 'pause engine'")
    options = parser.parse_args()
    exit_on_sigterm()
    began = time.monotonic()
    rng = random.Random(options.seed)
    with small_disk() as disk, _database(options.database, disk) as (url, postgresql):
        fixture = _prepare(url)
        environment = {
            "DRAGOMAN_ACCOUNTS_DATABASE": url,
            "DRAGOMAN_ACCOUNTS_JOURNAL_DIR": str(disk / "journals"),
            "DRAGOMAN_WORKERS": "2",
            "DRAGOMAN_SUPERVISION_HEARTBEAT_TIMEOUT_SECONDS": "10",
            "TMPDIR": str(disk),
            **_clock_environment(disk),
        }
        key = fixture.new_key()
        fixture.database.close()
        with killable_server("", environment) as server:
            machine = Machine(server, disk, postgresql, rng)
            injected, outcomes = asyncio.run(_serve_clients(machine, key, options))
            server.restart()  # The new server settles what the killed ones left.
        account = _check_books(url)
    print(f"{options.database}: {sum(injected.values())} faults in {time.monotonic() - began:.0f} s")
    print("  " + ", ".join(f"{count} {name}" for name, count in injected.most_common()))
    print("  clients: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    print(f"  deposits {account.deposits} = balance {account.balance} + charges {account.charges}; nothing held")


async def _serve_clients(machine: Machine, key: str, options: argparse.Namespace) -> tuple[Counter[str], Counter[str]]:
    async with Clients(machine.server.url, key, random.Random(options.seed)) as clients:
        injected = await run(machine, clients, options)
        return injected, clients.outcomes


if __name__ == "__main__":
    main()
