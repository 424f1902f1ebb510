"""Clients that chat through the proxy in several dialects, and know what has to come back and to be charged."""

import asyncio
import json
import random
import ssl
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp

DEADLINE_SECONDS = 20
"""That clients send in x-request-timeout."""

CLIENT_SECONDS = 45.0
"""After which a client gives up: the deadline, and the time in which the proxy notices that a machine is gone."""

MAX_TOKENS = 64
"""Of an answer."""

_PAUSE_SECONDS = 0.3
"""Before a client that got no answer asks again."""


class Answer(NamedTuple):
    """What a client has got."""

    outcome: str
    """answered, error, cut, refused, "deadline passed", or what no client may get."""
    request_id: str | None
    tokens: int
    """Bytes of the text: the echo engine's tokens."""


class Dialect(NamedTuple):
    """How to chat in a dialect."""

    path: str
    end: bytes
    """The last bytes of a whole stream."""


DIALECTS = (
    Dialect("/v1/chat/completions", b"data: [DONE]\n\n"),
    Dialect("/openai/v1/chat/completions", b"data: [DONE]\n\n"),
    Dialect("/v1/messages", b'data: {"type":"message_stop"}\n\n'),
)


def trusting(certificate: str) -> ssl.SSLContext:
    """Return a context that trusts this certificate, whatever the name."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    return context


class ChatClients:
    """Clients of one server or proxy. Use it as an async context manager."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        seed: int,
        certificate: str | None = None,
        exact: bool = True,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        """`exact`: the answer repeats the question, as the echo engine's."""
        self.outcomes: Counter[str] = Counter()
        self.answered: dict[str, int] = {}
        """Tokens of whole answers by request id."""
        self.violations: list[str] = []
        self.may_cut = False
        """Whether connections may end early: a machine that holds some is lost or cut off."""
        self.slowest_seconds = 0.0
        self._url = url
        self._headers = {"authorization": f"Bearer {key}", "x-request-timeout": str(DEADLINE_SECONDS)}
        self._random = random.Random(seed)
        self._ssl: ssl.SSLContext | bool = True if certificate is None else trusting(certificate)
        self._exact = exact
        self._max_tokens = max_tokens
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False

    async def __aenter__(self) -> "ChatClients":
        self._session = aiohttp.ClientSession(
            self._url,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=CLIENT_SECONDS),
            connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl),
        )
        return self

    async def __aexit__(self, *_raised: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    def start(self, clients: int, models: Sequence[str]) -> None:
        """Let so many clients ask again and again, until `finish`."""
        self._tasks += [asyncio.create_task(self._ask_repeatedly(models)) for _ in range(clients)]

    async def finish(self) -> None:
        """Wait until each client has its last answer."""
        self._is_stopping = True
        await asyncio.gather(*self._tasks)
        self._tasks.clear()

    async def ask(self, model: str, dialect: Dialect = DIALECTS[0], *, stream: bool = True) -> Answer:
        """Ask once."""
        text = f"Tell me about the number {self._random.randrange(10**6)}, please."[: self._random.randint(8, 40)]
        body = {
            "model": model,
            "max_tokens": self._max_tokens,
            "stream": stream,
            "messages": [{"role": "user", "content": text}],
        }
        began_at = time.monotonic()
        answer = await self._exchange(body, dialect, text)
        seconds = time.monotonic() - began_at
        self.slowest_seconds = max(self.slowest_seconds, seconds)
        self.outcomes[answer.outcome] += 1
        if answer.outcome == "answered" and answer.request_id is not None:
            self.answered[answer.request_id] = answer.tokens
        return answer

    async def _ask_repeatedly(self, models: Sequence[str]) -> None:
        while not self._is_stopping:
            dialect = self._random.choice(DIALECTS)
            could_cut = self.may_cut
            answer = await self.ask(self._random.choice(models), dialect, stream=self._random.random() < 0.6)
            is_permitted = answer.outcome in ("answered", "error")
            if answer.outcome in ("cut", "refused") and (could_cut or self.may_cut):
                is_permitted = True
            if not is_permitted:
                self.violations.append(f"{dialect.path}: {answer.outcome} {answer.request_id}")
            if answer.outcome != "answered":
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _exchange(self, body: Mapping[str, Any], dialect: Dialect, text: str) -> Answer:
        request_id: str | None = None
        content = b""
        try:
            async with self._session.post(dialect.path, json=body) as response:
                request_id = response.headers.get("x-request-id")
                async for received in response.content.iter_any():
                    content += received
                status = response.status
        except TimeoutError:
            return Answer("deadline passed", request_id, 0)
        except aiohttp.ClientConnectorError:
            return Answer("refused", None, 0)
        except (aiohttp.ClientError, ConnectionError):
            return Answer("cut", request_id, 0)
        return Answer(self._judge(status, content, body, dialect, text), request_id, len(text) if self._exact else 1)

    def _judge(self, status: int, content: bytes, body: Mapping[str, Any], dialect: Dialect, text: str) -> str:
        if status != 200:
            return "error" if _is_envelope(content) else f"status {status} without envelope: {content[:200]!r}"
        if not body["stream"]:
            found = _text_of(json.loads(content))
        elif content.endswith(dialect.end):
            frames = [frame.partition(b"data: ")[2] for frame in content.split(b"\n\n")]
            found = "".join(_delta_of(json.loads(frame)) for frame in frames if frame.startswith(b"{"))
        else:
            return "error" if b'"error"' in content.rpartition(b"data: ")[2] else "cut"
        return "answered" if found == text or not self._exact else f"another text: {found!r} instead of {text!r}"


def _is_envelope(content: bytes) -> bool:
    try:
        document = json.loads(content)
    except ValueError:
        return False
    return isinstance(document, dict) and "error" in document


def _text_of(document: Any) -> str:
    if "content" in document:
        return "".join(block.get("text", "") for block in document["content"])
    return str(document["choices"][0]["message"]["content"])


def _delta_of(document: Any) -> str:
    if document.get("type") == "content_block_delta":
        return str(document["delta"].get("text", ""))
    return "".join(choice["delta"].get("content") or "" for choice in document.get("choices", ()))
