"""An upstream that streams one token per step to each of its clients: the engine in benchmarks.upstream.

Started as `python -m benchmarks.token_source STEP_SECONDS`. It prints its address on standard output when it is ready,
and ends when it is terminated. It computes nothing: each token is one `send` of a chunk that was built beforehand, so
that no proxy under test waits for it. nginx could send a recorded stream at once only, which no engine does.
"""

import contextlib
import selectors
import socket
import sys
import time

import msgspec

STREAM_TOKENS = 256
TOKENS = [f" token{number:03}" for number in range(STREAM_TOKENS)]
STREAM_TEXT = "".join(TOKENS)
PROMPT_TOKENS = 8

_BACKLOG = 1024
_READ_BYTES = 65_536
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_LAST_CHUNK = b"0\r\n\r\n"


def chunk_document(choices: list[dict[str, object]], usage: dict[str, int] | None = None) -> bytes:
    """Return the server-sent event of one chunk of a chat completion, as vLLM and OpenAI send it."""
    document = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_750_000_000,
        "model": "benchmark",
        "choices": choices,
    }
    return b"data: " + msgspec.json.encode(document if usage is None else {**document, "usage": usage}) + b"\n\n"


def answer_events(tokens: list[str]) -> list[bytes]:
    """Return the events of an answer: one for each token, then the end, the usage and `[DONE]` in one."""

    def choice(delta: dict[str, str], reason: str | None = None) -> dict[str, object]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}

    usage = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": len(tokens),
        "total_tokens": PROMPT_TOKENS + len(tokens),
    }
    first, *others = tokens
    end = chunk_document([choice({}, "stop")]) + chunk_document([], usage) + b"data: [DONE]\n\n"
    return [
        chunk_document([choice({"role": "assistant", "content": first})]),
        *(chunk_document([choice({"content": token})]) for token in others),
        end,
    ]


def models_document() -> bytes:
    """Return what the route of models answers."""
    return msgspec.json.encode(
        {"object": "list", "data": [{"id": "benchmark", "object": "model", "owned_by": "bench"}]}
    )


def _writes() -> list[bytes]:
    """Return what is sent in each step of an answer."""
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in answer_events(TOKENS)]
    return [_HEAD + chunks[0], *chunks[1:-1], chunks[-1] + _LAST_CHUNK]


class TokenSource:
    """Serves its clients in one thread, without ever waiting for one of them."""

    def __init__(self, listener: socket.socket, step_seconds: float) -> None:
        self._listener = listener
        self._step_seconds = step_seconds
        self._writes = _writes()
        body = models_document()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._models = head.encode() + body
        self._selector = selectors.DefaultSelector()
        self._requests: dict[socket.socket, bytes] = {}
        self._streams: dict[socket.socket, int] = {}
        """The next write of each stream."""

    def run(self) -> None:
        """Serve until the process is terminated."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        next_step = 0.0
        while True:
            timeout = max(0.0, next_step - time.perf_counter()) if self._streams else None
            for key, _ in self._selector.select(timeout):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._read(key.fileobj)
            if (now := time.perf_counter()) >= next_step:
                next_step = now + self._step_seconds
                for connection in list(self._streams):
                    self._send_token(connection)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(connection, selectors.EVENT_READ)
        self._requests[connection] = b""

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        request = self._requests[connection] + data
        head, separator, body = request.partition(b"\r\n\r\n")
        is_complete = bool(separator) and (head.startswith(b"GET ") or _has_whole_body(head, body))
        self._requests[connection] = b"" if is_complete else request
        if is_complete and head.startswith(b"GET "):
            connection.sendall(self._models)
        elif is_complete:
            self._streams[connection] = 0
            self._send_token(connection)  # A prompt of no length is prefilled at once.

    def _send_token(self, connection: socket.socket) -> None:
        """Send the next token. A client whose buffer is full gets it in a later step."""
        number = self._streams[connection]
        write = self._writes[number]
        try:
            sent = connection.send(write)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)
            return
        if sent < len(write):
            connection.setblocking(True)
            with contextlib.suppress(OSError):
                connection.sendall(write[sent:])
            connection.setblocking(False)
        if number + 1 == len(self._writes):
            del self._streams[connection]
        else:
            self._streams[connection] = number + 1

    def _close(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        self._streams.pop(connection, None)
        del self._requests[connection]
        connection.close()


def _has_whole_body(head: bytes, body: bytes) -> bool:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return body.endswith(b"0\r\n\r\n")  # The end of a chunked body.


def main() -> None:
    """Serve until the process is terminated."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    host, port = listener.getsockname()
    print(f"http://{host}:{port}", flush=True)
    TokenSource(listener, float(sys.argv[1])).run()


if __name__ == "__main__":
    main()
