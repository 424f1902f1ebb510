import asyncio
import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from threading import Event, Thread
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from typer.testing import CliRunner, Result

from dragoman.cli.main import app
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

TIMEOUT_SECONDS = float(TEST_TIMEOUT_SECONDS)
"""Timeout of the tests' waits."""


def event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def text(content: str) -> str:
    return event({"choices": [{"index": 0, "delta": {"content": content}}]})


class ChatEndpoint:
    """A server that answers by the last message, and records its requests."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.disconnected = Event()
        self.models = ["first", "second"]
        self.key: str | None = None
        self.app = Starlette(
            routes=[
                Route("/v1/models", self.list_models),
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
            ]
        )

    def _refusal(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return JSONResponse({"error": {"message": "no key"}}, 401)

    async def list_models(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        return JSONResponse({"object": "list", "data": [{"id": name} for name in self.models]})

    async def complete(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        body = await request.json()
        self.bodies.append(body)
        prompt = body["messages"][-1]["content"]
        if prompt == "refuse":
            return JSONResponse({"error": {"message": "no such model"}}, status_code=404)
        return StreamingResponse(self.stream(request, prompt), media_type="text/event-stream")

    async def stream(self, request: Request, prompt: str) -> AsyncIterator[str]:
        yield ": keep-alive\n\n"
        yield text("You said ")
        match prompt:
            case "wait":
                async for comment in self.until_disconnected(request):
                    yield comment
            case "break":
                yield event({"error": {"message": "the engine died"}})
            case "cut":
                return
            case "escape":
                yield text("\x1b[2Jcleared\x07")
            case _:
                yield text(prompt)
        yield "data: [DONE]\n\n"

    async def until_disconnected(self, request: Request) -> AsyncIterator[str]:
        """Send comments until the client disconnects. They wake a client that got a signal just before it waits."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    if (await asyncio.wait_for(request.receive(), 0.1))["type"] == "http.disconnect":
                        return
                yield ": keep-alive\n\n"
        finally:
            self.disconnected.set()


@pytest.fixture
def endpoint() -> ChatEndpoint:
    return ChatEndpoint()


@pytest.fixture
def url(endpoint: ChatEndpoint) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(
            uvicorn.Config(endpoint.app, log_level="critical", lifespan="off", ws="none", loop="asyncio")
        )
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(TIMEOUT_SECONDS)


def chat(url: str, *lines: str, arguments: tuple[str, ...] = ()) -> Result:
    return CliRunner().invoke(app, ["chat", "--url", url, *arguments], input="".join(f"{line}\n" for line in lines))


def test_answers_are_printed_and_the_first_model_is_asked(endpoint: ChatEndpoint, url: str) -> None:
    result = chat(url, "hello", "", "bye")
    assert (result.exit_code, result.stdout) == (0, "You said hello\nYou said bye\n")
    assert endpoint.bodies[0] == {
        "model": "first",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
    }


def test_a_named_model_is_asked(endpoint: ChatEndpoint, url: str) -> None:
    chat(url, "hello", arguments=("second",))
    assert endpoint.bodies[0]["model"] == "second"


def test_a_server_with_keys_is_asked_with_the_key_that_is_referred_to(
    endpoint: ChatEndpoint, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.key = "sk-0123456789abcdef"
    monkeypatch.setenv("CHAT_KEY", endpoint.key)
    refused = CliRunner().invoke(app, ["chat", "--url", url], input="hello\n")
    assert refused.exit_code == 2
    assert refused.stderr == f"dragoman: {url}/v1/models answers 401: no key; pass --key env:NAME\n"
    assert CliRunner().invoke(app, ["chat", "--url", url, "--key", "env:CHAT_KEY"], input="hello\n").exit_code == 0
    assert endpoint.bodies[0]["messages"][-1]["content"] == "hello"
    shown = CliRunner().invoke(app, ["chat", "--url", url, "--key", endpoint.key], input="hello\n")
    assert (shown.exit_code, endpoint.key in shown.output) == (2, False)


def test_the_conversation_is_sent_along_until_it_is_cleared(endpoint: ChatEndpoint, url: str) -> None:
    chat(url, "a", "b", "/clear", "c", arguments=("--system", "Be brief."))
    assert [[message["content"] for message in body["messages"]] for body in endpoint.bodies] == [
        ["Be brief.", "a"],
        ["Be brief.", "a", "You said a", "b"],
        ["Be brief.", "c"],
    ]
    assert [message["role"] for message in endpoint.bodies[1]["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


def test_a_stream_without_its_terminator_is_reported_and_kept(endpoint: ChatEndpoint, url: str) -> None:
    result = chat(url, "cut", "next")
    assert result.stdout == "You said \nYou said next\n"
    assert "the answer was cut off" in result.stderr
    assert result.exit_code == 1
    assert [message["content"] for message in endpoint.bodies[1]["messages"]] == ["cut", "You said ", "next"]


def test_an_error_in_the_stream_is_reported(url: str) -> None:
    result = chat(url, "break")
    assert "the server broke the answer off: the engine died" in result.stderr
    assert result.exit_code == 1


def test_a_rejected_question_is_reported_and_removed(endpoint: ChatEndpoint, url: str) -> None:
    result = chat(url, "refuse", "next")
    assert "the server answers 404: no such model" in result.stderr
    assert [message["content"] for message in endpoint.bodies[1]["messages"]] == ["next"]


def test_a_model_cannot_control_the_terminal(url: str) -> None:
    assert chat(url, "escape").stdout == "You said [2Jcleared\n"


def test_exit_ends_and_help_lists_the_commands(endpoint: ChatEndpoint, url: str) -> None:
    result = chat(url, "/help", "/exit", "never sent")
    assert (result.exit_code, endpoint.bodies) == (0, [])
    for command in ("/clear", "/exit", "/help"):
        assert command in result.stderr


def test_an_unknown_command_is_not_sent(endpoint: ChatEndpoint, url: str) -> None:
    result = chat(url, "/quit now")
    assert "there is no command /quit; /help lists them" in result.stderr
    assert endpoint.bodies == []


def test_without_a_server_one_line_explains_how_to_start_one() -> None:
    result = chat("http://127.0.0.1:1/", "hello")
    assert result.exit_code == 2
    assert result.stderr.startswith("dragoman: no server answers at http://127.0.0.1:1 (")
    assert result.stderr.endswith("; start one with `dragoman serve`\n")
    assert result.stderr.count("\n") == 1


def test_a_server_that_serves_nothing_ends_the_chat(endpoint: ChatEndpoint, url: str) -> None:
    endpoint.models = []
    result = chat(url, "hello")
    assert (result.exit_code, result.stderr) == (2, f"dragoman: {url} serves no model\n")


def test_another_kind_of_server_is_recognized(url: str) -> None:
    result = chat(f"{url}/elsewhere", "hello")
    assert result.exit_code == 2
    assert result.stderr == f"dragoman: {url}/elsewhere/v1/models answers 404: Not Found\n"


def test_the_url_may_end_in_v1_as_in_other_clients(url: str) -> None:
    assert chat(f"{url}/v1/", "hello").stdout == "You said hello\n"


@pytest.mark.parametrize("wrong", ["localhost:8000", "http://a:b", "ftp://127.0.0.1"])
def test_a_wrong_url_is_named(wrong: str) -> None:
    result = chat(wrong, "hello")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"dragoman: {wrong} is not the URL of a server: ")


PROGRAM = """
import signal
from dragoman.cli.main import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # A run in the background inherits that it is ignored.
main()
"""


class Terminal:
    """`dragoman chat` in a pseudo-terminal."""

    def __init__(self, url: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "chat", "--url", url],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "dumb"},
            start_new_session=True,
        )
        os.close(slave)
        self.unread = ""

    def read_until(self, expected: str) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while expected not in self.unread:
            readable, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"{expected!r} did not come, but {self.unread!r}"
            self.unread += os.read(self.master, 4096).decode(errors="replace")
        self.unread = self.unread.partition(expected)[2]

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT_SECONDS)
        os.close(self.master)


@pytest.fixture
def terminal(url: str) -> Iterator[Terminal]:
    with contextlib.closing(Terminal(url)) as terminal:
        terminal.read_until("Ctrl-D ends.")
        terminal.read_until("> ")
        yield terminal


def test_ctrl_c_stops_the_answer_and_not_the_program(endpoint: ChatEndpoint, terminal: Terminal) -> None:
    terminal.type("wait\n")
    terminal.read_until("You said ")
    terminal.process.send_signal(signal.SIGINT)
    terminal.read_until("stopped")
    assert endpoint.disconnected.wait(TIMEOUT_SECONDS)
    terminal.read_until("> ")
    terminal.type("again\n")
    terminal.read_until("You said again")
    assert [message["content"] for message in endpoint.bodies[1]["messages"]] == [
        "wait",
        "You said ",
        "again",
    ]
    terminal.read_until("> ")
    terminal.type("\x04")
    assert terminal.process.wait(TIMEOUT_SECONDS) == 0


def test_ctrl_c_at_the_prompt_ends_the_program(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGINT)
    # The prompt appears before Python waits for keys. A signal in between is handled with the next line.
    terminal.type("\n")
    assert terminal.process.wait(TIMEOUT_SECONDS) == 0
