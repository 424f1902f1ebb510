"""Mixed load for minutes: does memory grow, do descriptors leak, does any request fail that should not?

    .venv/bin/python -m benchmarks.soak                # 20 minutes
    .venv/bin/python -m benchmarks.soak --minutes 2

Clients chat, stream, leave in the middle of a stream, queue, use an adapter, ask for JSON by ever new schemas, and use
wrong keys, on the bundled model with accounts. The load pauses at the end of the warm-up and at the end, and memory and
descriptors of the two quiet moments are compared. The exit status is 1 if the memory of a process grew by 5 % or more,
if descriptors or processes changed, if the server answered a status of 500 or more, or if the books do not balance.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from benchmarks.adapters import write_random_adapter
from benchmarks.databases import KINDS, new_databases
from benchmarks.harness.figures import table
from benchmarks.harness.process_tree import ProcessUsage, measure_processes
from benchmarks.harness.processes import Server, dragoman_server, exit_on_sigterm
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from tests.support.ledger_harness import CACHED_PRICE, COMPLETION_PRICE, PROMPT_PRICE
from tests.support.metered import AccountFixture

MAX_GROWTH_PERCENT = 5.0
WARM_UP_SECONDS = 120.0
"""Of a run of 20 minutes; at most a quarter of a shorter one."""

QUIET_SECONDS = 8.0
"""After the last response: keep-alive connections are closed, and allocators give pages back."""

_SAMPLES = 10
_MODEL = "smollm2-135m-instruct"
_ADAPTER = "soak-adapter"
_WRONG_KEY = "sk-wrong-0123456789abcdef"
_TIMEOUT_SECONDS = 120.0
_POLL_SECONDS = 0.2
_KV_CACHE_TOKENS, _HOST_CACHE_TOKENS = 4096, 1024
"""Small caches, which the warm-up fills: the defaults grow to their bounds for a quarter of an hour."""

_NO_RESPONSE = 0
"""The status of a request that got no whole response."""

_CHAT = "/v1/chat/completions"


class SoakClient:
    """One client, which sends requests of one kind, one after the other."""

    def __init__(self, url: str, key: str, kind: str, seed: int, statuses: Counter[tuple[str, int]]) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_SECONDS)
        self._headers = {"authorization": f"Bearer {key}"}
        self._kind = kind
        self._random = random.Random(seed)
        self._statuses = statuses

    async def run(self, seconds: float) -> None:
        """Send requests until `seconds` have passed, and close the connections."""
        send = _KINDS[self._kind]
        deadline = time.monotonic() + seconds
        async with self._http:
            while time.monotonic() < deadline:
                try:
                    status = await send(self)
                except httpx.HTTPError:
                    status = _NO_RESPONSE
                self._statuses[self._kind, status] += 1

    async def chat(self, **fields: Any) -> int:
        response = await self._http.post(_CHAT, json=self._body(**fields), headers=self._headers)
        return response.status_code

    async def stream(self, leave_after: int | None = None) -> int:
        """Read a stream to its end, or leave after so many lines."""
        body = self._body(stream=True, max_tokens=32)
        async with self._http.stream("POST", _CHAT, json=body, headers=self._headers) as response:
            lines = 0
            async for _ in response.aiter_lines():
                lines += 1
                if leave_after is not None and lines >= leave_after:
                    break
            return response.status_code

    async def leave(self) -> int:
        return await self.stream(self._random.randint(1, 8))

    async def use_adapter(self) -> int:
        return await self.chat(model=_ADAPTER)

    async def follow_schema(self) -> int:
        """Ask for JSON by a schema that was not used before."""
        name = f"field_{self._random.getrandbits(32):x}"
        schema = {
            "type": "object",
            "properties": {name: {"enum": ["yes", "no", self._random.randint(0, 9)]}},
            "required": [name],
            "additionalProperties": False,
        }
        response_format = {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}
        return await self.chat(response_format=response_format)

    async def queue(self) -> int:
        """Queue a request and wait for its end."""
        headers = {**self._headers, "prefer": "respond-async"}
        response = await self._http.post("/queue/chat/completions", json=self._body(), headers=headers)
        if response.status_code != 202:
            return response.status_code
        path = f"/queue/response/{response.json()['id']}"
        while True:
            response = await self._http.get(path, headers=self._headers)
            if response.status_code != 200 or response.json()["status"] not in ("queued", "running"):
                return response.status_code
            await asyncio.sleep(_POLL_SECONDS)

    async def use_wrong_key(self) -> int:
        headers = {"authorization": f"Bearer {_WRONG_KEY}-{self._random.getrandbits(32)}"}
        response = await self._http.post(_CHAT, json=self._body(), headers=headers)
        await asyncio.sleep(_POLL_SECONDS)
        return response.status_code

    async def count_tokens(self) -> int:
        body = {"model": _MODEL, "prompt": self._text()}
        response = await self._http.post("/utils/token_counter", json=body, headers=self._headers)
        await asyncio.sleep(_POLL_SECONDS)
        return response.status_code

    def _body(self, **fields: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": self._text()}]
        return {"model": _MODEL, "messages": messages, "max_tokens": 16, **fields}

    def _text(self) -> str:
        return f"Tell me about the number {self._random.getrandbits(24)} " + "and more " * self._random.randint(0, 20)


_KINDS: Mapping[str, Callable[[SoakClient], Awaitable[int]]] = {
    "chat": SoakClient.chat,
    "stream": SoakClient.stream,
    "leave": SoakClient.leave,
    "queue": SoakClient.queue,
    "adapter": SoakClient.use_adapter,
    "schema": SoakClient.follow_schema,
    "wrong key": SoakClient.use_wrong_key,
    "tokens": SoakClient.count_tokens,
}


class QuietMoment(NamedTuple):
    """What the processes use without load."""

    usage: Mapping[int, ProcessUsage]


async def _load(server: Server, key: str, seconds: float, seed: int, statuses: Counter[tuple[str, int]]) -> QuietMoment:
    """Send the mixed load, print the memory over time, and measure once nothing is sent any more."""
    clients = [
        SoakClient(server.url, key, kind, seed * 1000 + number, statuses)
        for number, kind in enumerate([*_KINDS, "stream", "leave"])
    ]
    sampling = asyncio.create_task(_print_samples(server, seconds))
    try:
        await asyncio.gather(*(client.run(seconds) for client in clients))
    finally:
        sampling.cancel()
        await asyncio.wait([sampling])
    await asyncio.sleep(QUIET_SECONDS)
    return QuietMoment(await asyncio.to_thread(measure_processes, server.process_id))


async def _print_samples(server: Server, seconds: float) -> None:
    started = time.monotonic()
    while True:
        usage = await asyncio.to_thread(measure_processes, server.process_id)
        columns = "  ".join(f"{each.name} {each.resident_kibibytes / 1024:.1f} MiB" for each in usage.values())
        print(f"{time.monotonic() - started:6.0f} s  {columns}", file=sys.stderr)
        await asyncio.sleep(seconds / _SAMPLES)


async def _soak(server: Server, key: str, minutes: float) -> tuple[QuietMoment, QuietMoment, Counter[tuple[str, int]]]:
    seconds = minutes * 60
    warm_up = min(WARM_UP_SECONDS, seconds / 4)
    statuses: Counter[tuple[str, int]] = Counter()
    before = await _load(server, key, warm_up, 1, statuses)
    after = await _load(server, key, seconds - warm_up, 2, statuses)
    return before, after, statuses


def _faults(before: QuietMoment, after: QuietMoment, statuses: Counter[tuple[str, int]]) -> Iterator[str]:
    """Yield what should not be, as lines for people."""
    for moment, other in ((before, after), (after, before)):
        for process_id in moment.usage.keys() - other.usage.keys():
            yield f"{moment.usage[process_id].name} was there at one of the two quiet moments only"
    for process_id in before.usage.keys() & after.usage.keys():
        first, last = before.usage[process_id], after.usage[process_id]
        if (growth := _growth_percent(first, last)) >= MAX_GROWTH_PERCENT:
            yield f"the memory of {first.name} grew by {growth:.1f} %"
        if first.descriptors != last.descriptors:
            yield f"{first.name} had {first.descriptors} descriptors, and then {last.descriptors}"
    for (kind, status), count in sorted(statuses.items()):
        if status >= 500 or status == _NO_RESPONSE:
            yield f"{count} requests of the kind {kind} got {status or 'no response'}"


def _growth_percent(first: ProcessUsage, last: ProcessUsage) -> float:
    return (last.resident_kibibytes / first.resident_kibibytes - 1) * 100


def _report(before: QuietMoment, after: QuietMoment, statuses: Counter[tuple[str, int]]) -> str:
    rows = [("process", "after the warm-up", "at the end", "growth", "descriptors")]
    for process_id, first in before.usage.items():
        if (last := after.usage.get(process_id)) is not None:
            size, final_size = (f"{each.resident_kibibytes / 1024:.1f} MiB" for each in (first, last))
            descriptors = f"{first.descriptors}, {last.descriptors}"
            rows.append((first.name, size, final_size, f"{_growth_percent(first, last):+.1f} %", descriptors))
    answers = [("requests", "status", "count")]
    answers += [(kind, str(status), str(count)) for (kind, status), count in sorted(statuses.items())]
    return f"{table(rows)}\n\n{table(answers)}"


@contextlib.contextmanager
def _server(url: str, folder: Path) -> Iterator[tuple[Server, AccountFixture]]:
    """Run the server with accounts and an adapter."""
    database = Database(url)
    upgrade(database)
    account_fixture = AccountFixture(database)
    set_price(database, _MODEL, PROMPT_PRICE, COMPLETION_PRICE, cached=CACHED_PRICE)
    adapter = write_random_adapter(folder / "adapter.gguf", 1)
    settings = folder / "soak.toml"
    settings.write_text(
        f'[accounts]\ndatabase = "{url}"\njournal_dir = "{folder}/journals"\n'
        f"[engine]\nkv_cache_tokens = {_KV_CACHE_TOKENS}\nhost_cache_tokens = {_HOST_CACHE_TOKENS}\n"
        f'[[adapters]]\nname = "{_ADAPTER}"\npath = "{adapter}"\n'
    )
    with dragoman_server("--config", str(settings)) as server:
        yield server, account_fixture


def main() -> None:
    """Run the load, print what was measured, and exit with 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20, help="how long (default: 20)")
    parser.add_argument("--database", choices=KINDS, default="sqlite", help="default: sqlite")
    options = parser.parse_args()
    exit_on_sigterm()
    with tempfile.TemporaryDirectory() as folder, new_databases(options.database, 1) as [url]:
        with _server(url, Path(folder)) as (server, account_fixture):
            before, after, statuses = asyncio.run(_soak(server, account_fixture.new_key(), options.minutes))
        account_fixture.assert_settled()
        account_fixture.database.close()
    print(_report(before, after, statuses))
    if faults := list(_faults(before, after, statuses)):
        sys.exit("\n".join(["", *faults]))
    print("\nno leak, no failure; the books balance")


if __name__ == "__main__":
    main()
