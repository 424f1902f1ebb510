"""Queued requests whose streams are read on one machine after another, and have to be the same everywhere."""

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from tests.support.hosts.chats import trusting

_ENDED = ("finished", "failed", "cancelled")
_PATIENCE_SECONDS = 120.0
"""After which a job counts as lost."""

_READ_SECONDS = 30.0
_PAUSE_SECONDS = 0.2


class QueuedJob:
    """A job and what its reader has."""

    def __init__(self, job_id: str, body: Mapping[str, Any]) -> None:
        self.id = job_id
        self.body = body
        self.frames: list[bytes] = []
        self.machines: list[str] = []
        """Where its reader has read on, one after the other."""

    @property
    def has_ended(self) -> bool:
        return bool(self.frames) and (self.frames[-1].endswith(b"data: [DONE]") or b'"error"' in self.frames[-1])


class QueuedRequests:
    """Submits jobs to the proxy and reads them from the machines. Use it as an async context manager."""

    def __init__(self, edge: str, machines: Sequence[str], key: str, *, seed: int, certificate: str) -> None:
        """`edge` and `machines` are URLs."""
        self.jobs: list[QueuedJob] = []
        self.resumed = 0
        """How often a reader went on with another machine."""
        self.is_stopping = False
        self._edge = edge
        self._machines = machines
        self._headers = {"authorization": f"Bearer {key}"}
        self._random = random.Random(seed)
        self._ssl = trusting(certificate)
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "QueuedRequests":
        timeout = aiohttp.ClientTimeout(total=_READ_SECONDS, sock_connect=3)
        self._session = aiohttp.ClientSession(
            headers=self._headers, timeout=timeout, connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl)
        )
        return self

    async def __aexit__(self, *_raised: object) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        await self._session.close()

    async def submit(self, body: Mapping[str, Any], number: int, *, reads: bool = True) -> QueuedJob:
        """Queue a request, again until it is accepted, and let a reader read its stream, or only once it has ended.

        An answer that somebody has begun to read cannot begin again elsewhere.
        """
        headers = {"prefer": "respond-async", "idempotency-key": f"request {number}"}
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    url = f"{self._edge}/queue/chat/completions"
                    async with self._session.post(url, json=body, headers=headers) as response:
                        if response.status == 202:
                            job = QueuedJob((await response.json())["id"], body)
                            break
                        assert response.status in (408, 429, 503), await response.text()
                await asyncio.sleep(_PAUSE_SECONDS)
        self.jobs.append(job)
        self._readers.append(asyncio.create_task(self._read(job) if reads else self._read_ended(job)))
        return job

    async def finish(self) -> None:
        """Wait until all readers have the whole of their streams. Raises TimeoutError."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await asyncio.gather(*self._readers)
        self._readers.clear()

    async def differences(self, edge: str | None = None) -> list[str]:
        """Compare what readers have put together with what every machine says now.

        Whether the jobs have finished is asked at `edge`; None: at the proxy.
        """
        found: list[str] = []
        for job in self.jobs:
            for machine in self._machines:
                whole = QueuedJob(job.id, job.body)
                await self._read_on(whole, machine)
                if whole.frames != job.frames:
                    found.append(f"{job.id}: {machine} says {whole.frames}, its reader has {job.frames}")
            status, document = await self._document(job, edge)
            if status != "finished":
                found.append(f"{job.id} is {document} after {job.machines}")
        return found

    async def texts(self, edge: str | None = None) -> list[tuple[Mapping[str, Any], str]]:
        """Return the bodies and the texts of all answers."""
        documents = [(job.body, (await self._document(job, edge))[1]) for job in self.jobs]
        return [
            (body, str(document["result"]["choices"][0]["message"]["content"]) if "result" in document else "")
            for body, document in documents
        ]

    async def _document(self, job: QueuedJob, edge: str | None) -> tuple[str, Any]:
        async with self._session.get(f"{edge or self._edge}/queue/response/{job.id}") as response:
            document = await response.json()
            return document.get("status", ""), document

    async def _read_ended(self, job: QueuedJob) -> None:
        status = ""
        while status not in _ENDED:
            await asyncio.sleep(_PAUSE_SECONDS)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
                status, _ = await self._document(job, None)
        await self._read(job)

    async def _read(self, job: QueuedJob) -> None:
        """Read the stream to its end, from another machine after each interruption and now and then."""
        while not job.has_ended:
            machine = self._random.choice(self._machines)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
                async with asyncio.timeout(self._random.uniform(0.5, 6.0)):
                    await self._read_on(job, machine)
            if not job.has_ended:
                self.resumed += bool(job.frames)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _read_on(self, job: QueuedJob, machine: str) -> None:
        headers = {"accept": "text/event-stream", "last-event-id": str(len(job.frames))}
        url = f"{machine}/queue/response/{job.id}"
        job.machines.append(machine)
        async with self._session.get(url, headers=headers) as response:
            if response.status != 200:
                return
            received = b""
            async for piece in response.content.iter_any():
                *frames, received = (received + piece).split(b"\n\n")
                for frame in frames:
                    lines = [line for line in frame.split(b"\n") if not line.startswith(b":")]
                    if not lines[0].startswith(b"id: "):
                        return  # An error of this machine, which ends no job.
                    job.frames.append(b"\n".join(lines))
