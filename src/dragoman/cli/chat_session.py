"""A conversation in the terminal over a server's OpenAI-compatible chat endpoint."""

import contextlib
import io
import sys
from collections.abc import Generator, Iterator

import httpx
import msgspec
import typer

from dragoman.cli.chat_stream import AnswerInterrupted, iter_texts

HELP = """\
/clear  forget the conversation
/exit   end (Ctrl-D does too)
/help   this list
Ctrl-C stops an answer."""
STOPPED = "stopped"

# With these, a model or server could move the cursor, change colours or write to the clipboard.
_CONTROL_CHARACTERS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class ServerUnavailable(Exception):
    """No server answers. The message is one line for people."""


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class _Error(msgspec.Struct):
    message: str


class _ErrorBody(msgspec.Struct):
    error: _Error


class ChatServer:
    """The two endpoints a conversation needs."""

    def __init__(self, url: str, key: str | None) -> None:
        """`url` may end in /v1, as in other clients."""
        self.url = url.rstrip("/").removesuffix("/v1")
        # Reading has no timeout: an answer may wait for a slot, and Ctrl-C stops it.
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._client = httpx.Client(timeout=httpx.Timeout(10.0, read=None), headers=headers)

    def models(self) -> list[str]:
        """Return the names of the served models. Raises ServerUnavailable."""
        try:
            response = self._client.get(f"{self.url}/v1/models", timeout=10.0)
            response.raise_for_status()
            return [model.id for model in msgspec.json.decode(response.content, type=_Models).data]
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise ServerUnavailable(f"{self.url} is not the URL of a server: {error}") from error
        except httpx.RequestError as error:
            raise ServerUnavailable(self._unreachable(error)) from error
        except httpx.HTTPStatusError as error:
            hint = "; pass --key env:NAME" if error.response.status_code == httpx.codes.UNAUTHORIZED else ""
            raise ServerUnavailable(f"{self.url}/v1/models answers {_describe_error(error.response)}{hint}") from error
        except msgspec.DecodeError as error:
            raise ServerUnavailable(f"{self.url}/v1/models answers no list of models: {error}") from error

    def stream_answer(self, model: str, messages: list[dict[str, str]]) -> Generator[str]:
        """Stream the answer to `messages`. Closing the generator stops it. Raises AnswerInterrupted."""
        body = {"model": model, "messages": messages, "stream": True}
        connected = False
        try:
            with self._client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as response:
                connected = True
                if not response.is_success:
                    response.read()
                    raise AnswerInterrupted(f"the server answers {_describe_error(response)}")
                yield from iter_texts(response.iter_bytes())
        except httpx.RequestError as error:
            interrupted = f"the answer was cut off: the connection was lost ({error})"
            raise AnswerInterrupted(interrupted if connected else self._unreachable(error)) from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _unreachable(self, error: httpx.RequestError) -> str:
        return f"no server answers at {self.url} ({error}); start one with `dragoman serve`"


class ChatConversation:
    """The messages of a conversation."""

    def __init__(self, server: ChatServer, model: str, system: str | None) -> None:
        self._server = server
        self._model = model
        self._initial_messages = [] if system is None else [{"role": "system", "content": system}]
        self._messages = list(self._initial_messages)

    def clear(self) -> None:
        """Remove all messages but the system prompt."""
        self._messages = list(self._initial_messages)

    def ask(self, question: str) -> str:
        """Print the answer as it streams. Return why it is incomplete, or "".

        An incomplete answer stays in the conversation. A question without any answer is removed.
        """
        self._messages.append({"role": "user", "content": question})
        pieces: list[str] = []
        problem = ""
        try:
            with contextlib.closing(self._server.stream_answer(self._model, self._messages)) as texts:
                for text in texts:
                    pieces.append(text)
                    sys.stdout.write(text.translate(_CONTROL_CHARACTERS))
                    sys.stdout.flush()
        except KeyboardInterrupt:
            problem = STOPPED
        except AnswerInterrupted as error:
            problem = str(error)
        if not pieces:
            self._messages.pop()
            return problem or "the answer is empty"
        self._messages.append({"role": "assistant", "content": "".join(pieces)})
        sys.stdout.write("\n")
        return problem


def run(url: str, model: str | None, system: str | None, key: str | None) -> int:
    """Hold a conversation on standard input and output. Return the exit status.

    It is 2 if no server answers, 1 if input is piped and an answer was incomplete, otherwise 0.
    """
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with contextlib.closing(ChatServer(url, key)) as server:
        try:
            served = server.models()
            if not served:
                raise ServerUnavailable(f"{server.url} serves no model")
        except ServerUnavailable as error:
            typer.echo(f"dragoman: {error}".translate(_CONTROL_CHARACTERS), err=True)
            return 2
        model = model or served[0]
        if interactive:
            _print_notice(f"{model} at {server.url}. /help lists the commands, Ctrl-D ends.")
        conversation = ChatConversation(server, model, system)
        succeeded = [_handle_line(conversation, line) for line in _read_lines(interactive)]
    return 0 if interactive or all(succeeded) else 1


def _read_lines(interactive: bool) -> Iterator[str]:
    """Yield the lines of the input until it ends, Ctrl-C or /exit."""
    if interactive:
        with contextlib.suppress(ImportError):  # not on Windows
            import readline  # noqa: F401 - gives input() editing and history
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except (EOFError, KeyboardInterrupt):
            if interactive:
                sys.stdout.write("\n")
            return
        if line == "/exit":
            return
        if line:
            yield line


def _handle_line(conversation: ChatConversation, line: str) -> bool:
    """Run a command or ask the model. Return whether that succeeded."""
    if line == "/help":
        _print_notice(HELP)
    elif line == "/clear":
        conversation.clear()
        _print_notice("forgotten")
    elif line.startswith("/"):
        _print_notice(f"there is no command {line.split()[0]}; /help lists them")
        return False
    elif problem := conversation.ask(line):
        _print_notice(problem)
        return problem == STOPPED
    return True


def _print_notice(text: str) -> None:
    """Print a line that is not part of an answer."""
    typer.secho(text.translate(_CONTROL_CHARACTERS), dim=True, err=True)


def _describe_error(response: httpx.Response) -> str:
    try:
        message = msgspec.json.decode(response.content, type=_ErrorBody).error.message
    except msgspec.DecodeError:
        message = response.reason_phrase
    return f"{response.status_code}: {message}"
