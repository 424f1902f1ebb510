"""`dragoman conformance`, which checks any server from outside."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable

import httpx
import pytest
from typer.testing import CliRunner

from dragoman.cli.main import app
from dragoman.conformance.dialects import PROFILES
from dragoman.conformance.promises import PROMISES, PromiseResult, ServerUnderTest, check_all
from dragoman.conformance.report import REPORTS
from tests.support.server import RunningServer

OURS = {name: profile.base for name, profile in PROFILES.items()} | {"openai": "http://HOST/openai/v1"}
"""Dialect → its base URL here."""

KEY = "correct-horse-battery-staple"

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.mark.parametrize("dialect", OURS)
def test_our_own_server_keeps_all_promises(echo_server: RunningServer, dialect: str) -> None:
    base = OURS[dialect].replace("http://HOST", echo_server.url)
    result = CliRunner().invoke(app, ["conformance", base, "--dialect", dialect, "--model", "echo", "--report", "json"])
    results = [PromiseResult(**each) for each in json.loads(result.stdout)["results"]]
    assert [each for each in results if each.state == "failed"] == []
    assert len(results) == len(PROMISES)
    assert sum(each.state == "passed" for each in results) >= len(PROMISES) - 2, (
        "only keys and stop strings may be missing"
    )
    assert result.exit_code == 0


def results_of(handler: Handler, key: str | None = None) -> dict[str, PromiseResult]:
    with httpx.Client(transport=httpx.MockTransport(handler), base_url="http://server/v1") as client:
        results = check_all(ServerUnderTest(client, PROFILES["openai"], "owl", key))
        return {each.promise: each for each in results}


def answer(text: str, *, finish_reason: str = "stop", completion_tokens: int = 3) -> httpx.Response:
    choice = {"message": {"content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 4, "completion_tokens": completion_tokens}
    return httpx.Response(200, json={"choices": [choice], "usage": usage})


def test_a_server_that_answers_everything_alike_breaks_most_promises() -> None:
    results = results_of(lambda _: answer("one two three four"), KEY)
    assert results["an answer has text a finish reason and usage"].state == "passed"
    broken = {name: each.message for name, each in results.items() if each.state == "failed"}
    assert "another form" in broken["a streamed answer is the whole answer with the same usage"]
    assert broken["max tokens ends an answer with length"] == "3 tokens and the finish reason 'stop'"
    assert "instead of 'one two '" in broken["a stop string ends an answer and is not part of it"]
    assert "a longer prompt has 4 tokens" in broken["a prompt has the same number of tokens every time"]
    assert broken["an unknown model is refused"].startswith("status 200 instead of 404")
    assert broken["a wrong key is refused"].startswith("status 200 instead of 401")


def test_a_stream_without_its_terminator_and_errors_in_another_envelope_are_found() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if b"no-model" in request.content:
            return httpx.Response(404, json={"detail": "Not Found"})
        chunk = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": None}
        return httpx.Response(200, text=f"data: {json.dumps(chunk)}\n\n")

    results = results_of(handle)
    assert "not the dialect's envelope" in results["an unknown model is refused"].message
    assert results["a wrong key is refused"].state == "skipped"

    def handle_stream(request: httpx.Request) -> httpx.Response:
        return handle(request) if b'"stream"' in request.content else answer("a")

    streamed = results_of(handle_stream)["a streamed answer is the whole answer with the same usage"]
    assert streamed.message == "the stream does not end with data: [DONE]"


def test_a_server_that_does_not_answer_breaks_all_that_is_checked() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    results = results_of(refuse)
    assert {each.state for name, each in results.items() if "key" not in name} == {"failed"}
    assert results["a missing field is refused"].message == "no answer: connection refused"


def test_a_report_is_written_for_people_and_for_ci() -> None:
    results = [
        PromiseResult("kept", "passed", "", 0.5),
        PromiseResult("broken", "failed", "status <500>", 0.25),
        PromiseResult("unknown", "skipped", "no key", 0.0),
    ]
    assert REPORTS["text"]("openai", results).splitlines()[1:] == [
        "failed   broken: status <500>",
        "skipped  unknown: no key",
        "openai: 1 passed, 1 failed, 1 skipped",
    ]
    suite = ET.fromstring(REPORTS["junit"]("openai", results))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert [each.get("message") for each in suite.iter("failure")] == ["status <500>"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--dialect", "klingon"], "--dialect must be one of openai, infermatic, float16"),
        (["--dialect", "openai", "--report", "pdf"], "--report must be one of text, json, junit, got pdf"),
        (["--dialect", "openai", "--key", KEY], "pass env:NAME or file:/path"),
        (["--dialect", "openai", "--key", "env:ABSENT"], "the environment variable ABSENT is not set"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(app, ["conformance", "http://localhost:1/v1", "--model", "owl", *arguments])
    assert result.exit_code == 2
    assert reason in result.stderr
    assert KEY not in result.stderr


def test_a_broken_promise_is_an_exit_status() -> None:
    result = CliRunner().invoke(app, ["conformance", "http://localhost:1/v1", "--model", "owl", "--dialect", "openai"])
    assert result.exit_code == 1
    assert "0 passed, 10 failed, 1 skipped" in result.stdout
