"""The promises: what a server of a dialect does with any model. Each is checked with requests of its own."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import httpx

from dragoman.conformance.dialects import ChatReply, DialectProfile, PromiseBroken

State = Literal["passed", "failed", "skipped"]

_QUESTION = "Count from one to ten in words, separated by commas."
_UNICODE_QUESTION = "Repeat exactly: día 🦜🇫🇷 naïve 漢字"
_FEW, _MANY = 3, 24
"""Tokens to generate."""


class PromiseResult(NamedTuple):
    """The outcome of one check."""

    promise: str
    state: State
    message: str
    seconds: float


class PromiseSkipped(Exception):
    """The promise cannot be checked here. The message says why."""


class ServerUnderTest:
    """A server that is asked in one dialect for one model."""

    def __init__(self, client: httpx.Client, dialect: DialectProfile, model: str, key: str | None) -> None:
        """The client has the base URL that clients of the dialect are given."""
        self.dialect = dialect
        self.key = key
        self._client = client
        self._model = model

    def post(self, body: dict[str, Any] | bytes, *, model: str | None = None, key: str | None = None) -> httpx.Response:
        """Send a chat request. Raises PromiseBroken if there is no answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        if used := self.key if key is None else key:
            headers["authorization"] = f"Bearer {used}"
        try:
            return self._client.post(self.dialect.path(model or self._model), content=content, headers=headers)
        except httpx.HTTPError as error:
            raise PromiseBroken(f"no answer: {error or type(error).__name__}") from error

    def body(self, text: str, *, model: str | None = None, **options: Any) -> dict[str, Any]:
        """Return the body of a request."""
        return self.dialect.body(model or self._model, text, **options)

    def chat(self, text: str, **options: Any) -> ChatReply:
        """Ask, and read the answer. Raises PromiseBroken unless it has the dialect's form."""
        response = self.post(self.body(text, temperature=0, **options))
        if response.status_code != httpx.codes.OK:
            raise PromiseBroken(f"status {response.status_code}: {response.text[:200]!r}")
        try:
            # Strictly: httpx would replace what is no UTF-8.
            content = response.content.decode()
            return (
                self.dialect.read_stream(content) if options.get("stream") else self.dialect.read(json.loads(content))
            )
        except (LookupError, TypeError, ValueError) as error:
            raise PromiseBroken(f"the answer has another form ({type(error).__name__}: {error})") from error

    def expect_error(self, response: httpx.Response, status: int) -> None:
        """Raise PromiseBroken unless the response is an error of the dialect with this status."""
        if response.status_code != status:
            raise PromiseBroken(f"status {response.status_code} instead of {status}: {response.text[:200]!r}")
        try:
            is_error = self.dialect.is_error(response.json())
        except ValueError:
            is_error = False
        if not is_error:
            raise PromiseBroken(f"status {status}, but not the dialect's envelope: {response.text[:200]!r}")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise PromiseBroken(message)


def an_answer_has_text_a_finish_reason_and_usage(server: ServerUnderTest) -> None:
    reply = server.chat(_QUESTION, max_tokens=_MANY)
    _expect(isinstance(reply.text, str), f"the text is {reply.text!r}")
    _expect(reply.finish_reason in ("stop", "length"), f"the finish reason is {reply.finish_reason!r}")
    _expect(reply.prompt_tokens > 0, f"{reply.prompt_tokens} prompt tokens")
    _expect(0 < reply.completion_tokens <= _MANY, f"{reply.completion_tokens} completion tokens of {_MANY} at most")


def a_streamed_answer_is_the_whole_answer_with_the_same_usage(server: ServerUnderTest) -> None:
    whole = server.chat(_QUESTION, max_tokens=_MANY)
    streamed = server.chat(_QUESTION, max_tokens=_MANY, stream=True)
    _expect(streamed == whole, f"streamed {streamed}, whole {whole}")


def max_tokens_ends_an_answer_with_length(server: ServerUnderTest) -> None:
    for stream in (False, True):
        reply = server.chat(_QUESTION, max_tokens=_FEW, stream=stream)
        end = (reply.finish_reason, reply.completion_tokens)
        _expect(end == ("length", _FEW), f"{end[1]} tokens and the finish reason {end[0]!r}")


def a_stop_string_ends_an_answer_and_is_not_part_of_it(server: ServerUnderTest) -> None:
    if not server.dialect.has_stop_strings:
        raise PromiseSkipped("the dialect has no stop strings")
    text = server.chat(_QUESTION, max_tokens=_MANY).text
    words = text.split()
    if len(words) < 3:
        raise PromiseSkipped(f"the model answers {text!r}, which is too short")
    stop = words[2]
    for stream in (False, True):
        reply = server.chat(_QUESTION, max_tokens=_MANY, stop=[stop], stream=stream)
        expected = text.partition(stop)[0]
        _expect(reply.text == expected, f"{reply.text!r} instead of {expected!r}")
        _expect(reply.finish_reason == "stop", f"the finish reason is {reply.finish_reason!r}")


def characters_of_several_tokens_arrive_complete(server: ServerUnderTest) -> None:
    for stream in (False, True):
        text = server.chat(_UNICODE_QUESTION, max_tokens=4 * _MANY, stream=stream).text
        _expect("\ufffd" not in text.rstrip("\ufffd"), f"{text!r} has replacement characters")


def a_prompt_has_the_same_number_of_tokens_every_time(server: ServerUnderTest) -> None:
    counts = {server.chat(_QUESTION, max_tokens=1).prompt_tokens for _ in range(2)}
    _expect(len(counts) == 1, f"the same prompt has {sorted(counts)} tokens")
    longer = server.chat(f"{_QUESTION} {_QUESTION}", max_tokens=1).prompt_tokens
    _expect(longer > max(counts), f"a longer prompt has {longer} tokens, a shorter one {max(counts)}")


def an_unknown_model_is_refused(server: ServerUnderTest) -> None:
    model = "no-model-has-this-name"
    server.expect_error(server.post(server.body("Hi", model=model), model=model), server.dialect.unknown_model_status)


def a_value_out_of_range_is_refused(server: ServerUnderTest) -> None:
    server.expect_error(server.post(server.body("Hi", top_p=1.5)), server.dialect.out_of_range_status)


def a_missing_field_is_refused(server: ServerUnderTest) -> None:
    body = {name: value for name, value in server.body("Hi").items() if name in ("model", "chat_history")}
    server.expect_error(server.post(body), server.dialect.missing_field_status)


def a_body_that_is_no_json_object_is_refused(server: ServerUnderTest) -> None:
    for body in (b"", b"{", b"[]", b"\xff"):
        server.expect_error(server.post(body), httpx.codes.BAD_REQUEST)


def a_wrong_key_is_refused(server: ServerUnderTest) -> None:
    if server.key is None:
        raise PromiseSkipped("no key was given, so the server may need none")
    server.expect_error(server.post(server.body("Hi"), key="wrong-0123456789"), httpx.codes.UNAUTHORIZED)


PROMISES: tuple[Callable[[ServerUnderTest], None], ...] = (
    an_answer_has_text_a_finish_reason_and_usage,
    a_streamed_answer_is_the_whole_answer_with_the_same_usage,
    max_tokens_ends_an_answer_with_length,
    a_stop_string_ends_an_answer_and_is_not_part_of_it,
    characters_of_several_tokens_arrive_complete,
    a_prompt_has_the_same_number_of_tokens_every_time,
    an_unknown_model_is_refused,
    a_value_out_of_range_is_refused,
    a_missing_field_is_refused,
    a_body_that_is_no_json_object_is_refused,
    a_wrong_key_is_refused,
)


def check_all(server: ServerUnderTest) -> Iterator[PromiseResult]:
    """Check each promise. No check raises."""
    for promise in PROMISES:
        started_at = time.monotonic()
        state: State = "passed"
        message = ""
        try:
            promise(server)
        except PromiseBroken as error:
            state, message = "failed", str(error)
        except PromiseSkipped as reason:
            state, message = "skipped", str(reason)
        yield PromiseResult(promise.__name__.replace("_", " "), state, message, time.monotonic() - started_at)
