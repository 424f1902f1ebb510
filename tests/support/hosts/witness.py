"""An upstream in this process that notes when which machine has what computed: is a job ever run twice at once?"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from aiohttp import web

from tests.support.hosts.servers import WITNESS_PORT

SECONDS_PER_WORD = 0.25


class Computation:
    """What one machine had computed."""

    def __init__(self, text: str, machine: str) -> None:
        self.text = text
        self.machine = machine
        self.began_at = time.monotonic()
        self.ended_at: float | None = None


class Witness:
    """Answers each chat with the words of its last message, slowly."""

    def __init__(self) -> None:
        self.computations: list[Computation] = []

    def overlaps(self, unheard: Mapping[str, Sequence[float]]) -> list[str]:
        """Return descriptions of the texts that two machines have had computed at the same time.

        `unheard` has the moments when machines lost power or their connection, by address: when what they ran ended
        could not be heard from then on.
        """
        found = []
        for number, first in enumerate(self.computations):
            for second in self.computations[number + 1 :]:
                seconds = _end(first, unheard) - second.began_at
                if first.text == second.text and seconds > 0 and second.began_at >= first.began_at:
                    found.append(f"{first.text[:12]!r} on {first.machine} and {second.machine} for {seconds:.1f} s")
        return found

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Stream the words."""
        text = (await request.json())["messages"][-1]["content"]
        computation = Computation(text, request.remote or "")
        self.computations.append(computation)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        try:
            await self._stream(request, response, text.split(" "))
        except ConnectionError:
            pass  # The machine has left the job.
        finally:
            computation.ended_at = time.monotonic()
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, words: Sequence[str]) -> None:
        await response.prepare(request)
        await response.write(_frame({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}))
        for number, word in enumerate(words):
            await asyncio.sleep(SECONDS_PER_WORD)
            content = word if number == len(words) - 1 else f"{word} "
            await response.write(_frame({"choices": [{"index": 0, "delta": {"content": content}}]}))
        await response.write(_frame({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        usage = {"prompt_tokens": 7, "completion_tokens": len(words)}
        await response.write(_frame({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
        await response.write_eof()


def _frame(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _end(computation: Computation, unheard: Mapping[str, Sequence[float]]) -> float:
    ended_at = time.monotonic() if computation.ended_at is None else computation.ended_at
    return min([ended_at, *(at for at in unheard.get(computation.machine, ()) if at >= computation.began_at)])


async def _models(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "echo", "object": "model", "owned_by": "witness"}]})


@contextlib.asynccontextmanager
async def running_witness() -> AsyncIterator[Witness]:
    """Serve on the machine that this thread is on."""
    witness = Witness()
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", witness.answer), web.get("/v1/models", _models)])
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "0.0.0.0", WITNESS_PORT).start()
        yield witness
    finally:
        await runner.cleanup()
