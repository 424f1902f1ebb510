"""Clients that stream chat completions in a closed loop, and the times they see."""

import asyncio
import itertools
import time
from typing import NamedTuple

import msgspec

from benchmarks.harness.connection import Connection, UnexpectedResponse, json_post
from benchmarks.harness.workloads import Conversations, Prompt

PATH = "/v1/chat/completions"
COMPLETION_TOKENS = 48
REQUEST_SECONDS = 300

_SEPARATOR = b"\n\n"
_PREFIX = b"data: "
_DONE = b"[DONE]"


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta


class _Usage(msgspec.Struct, frozen=True):
    completion_tokens: int
    prompt_tokens: int


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice]
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class Answer(NamedTuple):
    """One streamed answer."""

    seconds_to_first_token: float
    """From before the connection was opened to the first chunk with text."""
    seconds_between_tokens: list[float]
    """Between chunks with text. A token without text cannot be seen."""
    prompt_tokens: int
    completion_tokens: int


async def run_clients(
    url: str, model: str, conversations: Conversations, completion_tokens: int = COMPLETION_TOKENS
) -> list[Answer]:
    """Run all clients together. Each sends its next request after its last answer. Raises UnexpectedResponse."""
    answers = await asyncio.gather(*(_run_client(url, model, prompts, completion_tokens) for prompts in conversations))
    return list(itertools.chain.from_iterable(answers))


async def _run_client(url: str, model: str, prompts: list[Prompt], completion_tokens: int) -> list[Answer]:
    requests = [json_post(url, PATH, _completion_request(model, prompt, completion_tokens)) for prompt in prompts]
    return [await _send_request(url, request, completion_tokens) for request in requests]


def _completion_request(model: str, prompt: Prompt, completion_tokens: int) -> dict[str, object]:
    format_of_answer = {"type": "json_schema", "json_schema": {"name": "answer", "schema": prompt.schema}}
    return {
        **({"response_format": format_of_answer} if prompt.schema else {}),
        "model": model,
        "messages": [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.question},
        ],
        "max_tokens": completion_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _send_request(url: str, request: bytes, completion_tokens: int) -> Answer:
    stream = _Stream(completion_tokens)
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            connection = await Connection.open(url)
            try:
                await connection.send(request, stream.feed)
            finally:
                connection.close()
    except TimeoutError:
        raise UnexpectedResponse(f"a request took more than {REQUEST_SECONDS} seconds") from None
    return stream.answer()


class _Stream:
    """Reads server-sent events and records when each text arrived."""

    def __init__(self, completion_tokens: int) -> None:
        self._completion_tokens = completion_tokens
        self._started = time.perf_counter()
        self._times: list[float] = []
        self._unread = b""
        self._usage: _Usage | None = None

    def feed(self, body: bytes) -> None:
        """Take the next bytes, which may be cut anywhere."""
        now = time.perf_counter()
        *events, self._unread = (self._unread + body).split(_SEPARATOR)
        for event in events:
            document = event.removeprefix(_PREFIX)
            if document in (event, _DONE):
                continue  # A comment, or the end.
            chunk = _decode(document)
            self._usage = chunk.usage or self._usage
            if any(choice.delta.content for choice in chunk.choices):
                self._times.append(now)

    def answer(self) -> Answer:
        """Return the answer. Raises UnexpectedResponse unless it is complete."""
        wanted = self._completion_tokens
        if self._usage is None or self._usage.completion_tokens != wanted or not self._times:
            raise UnexpectedResponse(f"an answer of {wanted} tokens was requested, got {self._usage}")
        gaps = [later - earlier for earlier, later in itertools.pairwise(self._times)]
        return Answer(self._times[0] - self._started, gaps, self._usage.prompt_tokens, self._usage.completion_tokens)
