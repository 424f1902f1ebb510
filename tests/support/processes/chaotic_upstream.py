"""An upstream that can be killed, paused, reset and slowed at any moment: OpenAI's chat completions, without a model.

Run as `python -S tests/support/processes/chaotic_upstream.py PORT`. It imports nothing but asyncio, to start at once.

- POST /v1/chat/completions streams WORDS, one a token, each SECONDS_PER_TOKEN after the other, and the usage.
- GET /v1/models lists the model `echo`; GET /running returns how many answers are being streamed.
- GET /reset resets all connections. GET /slow multiplies the time of each token by SLOWNESS for SLOW_SECONDS.
"""

import asyncio
import json
import socket
import struct
import sys

WORDS = [f"word{number} " for number in range(12)]
SECONDS_PER_TOKEN = 0.03
SLOWNESS = 10
SLOW_SECONDS = 0.6
PROMPT_TOKENS = 7

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Upstream:
    def __init__(self) -> None:
        self.running = 0
        self.slow_until = 0.0
        self.writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1]
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                if length:
                    await reader.readexactly(int(length[0].partition(b":")[2]))
                if path == b"/v1/chat/completions":
                    await self.answer(reader, writer)
                else:
                    body = self.control(path)
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    def control(self, path: bytes) -> bytes:
        match path:
            case b"/running":
                return b"%d" % self.running
            case b"/slow":
                self.slow_until = asyncio.get_running_loop().time() + SLOW_SECONDS
            case b"/reset":
                for writer in self.writers:
                    connection = writer.get_extra_info("socket")
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
        return json.dumps({"object": "list", "data": [{"id": "echo", "object": "model", "owned_by": "chaos"}]}).encode()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Stream the words until the client closes the connection."""
        self.running += 1
        streaming = asyncio.create_task(self.stream(writer))
        # A client sends nothing more before it has the answer.
        leaving = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({streaming, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not streaming.done():
                raise ConnectionResetError
            await streaming
        finally:
            self.running -= 1
            for task in (streaming, leaving):
                task.cancel()
            await asyncio.gather(streaming, leaving, return_exceptions=True)

    async def stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunk({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}))
        for word in WORDS:
            is_slow = asyncio.get_running_loop().time() < self.slow_until
            await asyncio.sleep(SECONDS_PER_TOKEN * (SLOWNESS if is_slow else 1))
            writer.write(chunk({"choices": [{"index": 0, "delta": {"content": word}}]}))
            await writer.drain()
        writer.write(chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": len(WORDS)}
        writer.write(chunk({"choices": [], "usage": usage}) + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()


def chunk(body: object) -> bytes:
    return framed(b"data: " + json.dumps(body).encode() + b"\n\n")


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def main() -> None:
    server = await asyncio.start_server(Upstream().serve, "127.0.0.1", int(sys.argv[1]))
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
