"""curl, as the README and the server's own greeting use it."""

import json
import shutil
import subprocess

import pytest

from tests.support.server import RunningServer
from tests.support.timeouts import TEST_TIMEOUT_SECONDS, wait_until

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

HELLO = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "Hello"}], "stream": True})
ENDLESS = json.dumps({"model": "echo", "prompt": "ab", "max_tokens": 8000, "ignore_eos": True, "stream": True})


def curl(*arguments: str) -> str:
    done = subprocess.run(
        ["curl", "-sS", *arguments], check=True, capture_output=True, text=True, timeout=TEST_TIMEOUT_SECONDS
    )
    return done.stdout


def test_curl_gets_the_events_of_a_stream(echo_server: RunningServer) -> None:
    *blocks, end = curl("-N", f"{echo_server.url}/v1/chat/completions", "-d", HELLO).split("\n\n")
    assert (blocks.pop(), end) == ("data: [DONE]", "")
    chunks = [json.loads(block.removeprefix("data: ")) for block in blocks]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hello"


def test_curl_needs_no_content_type_header(echo_server: RunningServer) -> None:
    body = HELLO.replace("true", "false")
    answer = json.loads(curl(f"{echo_server.url}/v1/chat/completions", "-d", body))
    assert answer["choices"][0]["message"]["content"] == "Hello"


def test_curl_sees_the_headers_of_a_stream(echo_server: RunningServer) -> None:
    shown = curl("-i", "-N", f"{echo_server.url}/v1/chat/completions", "-d", HELLO)
    head = shown.partition("\n\n")[0].lower().splitlines()
    assert head[0] == "http/1.1 200 ok"
    assert "content-type: text/event-stream; charset=utf-8" in head


def test_chunks_arrive_early_and_a_disconnect_cancels_generation(slow_server: RunningServer) -> None:
    command = ["curl", "-sSN", f"{slow_server.url}/v1/completions", "-d", ENDLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline().removeprefix("data: "))
        assert first["choices"][0]["text"] == "a"
        assert process.poll() is None
        assert slow_server.running_sequences("echo") == 1
        process.kill()
    wait_until(lambda: slow_server.running_sequences("echo") == 0, "the generation ends")
