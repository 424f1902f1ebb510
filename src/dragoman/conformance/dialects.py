"""How each dialect is spoken over HTTP, as a client sees it: paths, bodies, answers, errors and statuses."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class PromiseBroken(Exception):
    """A server did not do what its dialect promises. The message is one line for people."""


class ChatReply(NamedTuple):
    """An answer, streamed or not."""

    text: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int


class DialectProfile:
    """OpenAI's dialect. The others differ in what they override."""

    name = "openai"
    base = "http://HOST/v1"
    """An example of the base URL that clients are given."""
    unknown_model_status = 404
    out_of_range_status = 400
    missing_field_status = 400
    has_stop_strings = True

    def path(self, model: str) -> str:  # noqa: ARG002 - others have it in the path
        """Return the path of the chat route below the base URL."""
        return "/chat/completions"

    def body(self, model: str, text: str, **options: Any) -> dict[str, Any]:
        """Return a chat of one message. Options: max_tokens, stop, temperature, top_p, stream."""
        usage = {"stream_options": {"include_usage": True}} if options.get("stream") else {}
        return {"model": model, "messages": [{"role": "user", "content": text}], **options, **usage}

    def read(self, document: Any) -> ChatReply:
        """Read a whole answer. Raises LookupError, TypeError or ValueError if it has another form."""
        [choice] = document["choices"]
        usage = document["usage"]
        return ChatReply(
            choice["message"]["content"], choice["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"]
        )

    def read_stream(self, text: str) -> ChatReply:
        """Read a complete stream. Raises PromiseBroken without its terminator, and what `read` raises."""
        *events, last = _events(text)
        if last != "[DONE]":
            raise PromiseBroken("the stream does not end with data: [DONE]")
        chunks = [json.loads(event) for event in events]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        usage = chunks[-1]["usage"]
        return ChatReply(
            "".join(choice["delta"].get("content") or "" for choice in choices),
            next((choice["finish_reason"] for choice in reversed(choices) if choice["finish_reason"]), None),
            usage["prompt_tokens"],
            usage["completion_tokens"],
        )

    def is_error(self, document: Any) -> bool:
        """Whether a document is an error in the dialect's envelope."""
        return isinstance(document, dict) and {"message", "type"} <= set(document.get("error") or ())


class _Responses(DialectProfile):
    name = "responses"
    has_stop_strings = False

    def path(self, model: str) -> str:  # noqa: ARG002 - the body names it
        return "/responses"

    def body(self, model: str, text: str, **options: Any) -> dict[str, Any]:
        renamed = {"max_output_tokens" if name == "max_tokens" else name: value for name, value in options.items()}
        return {"model": model, "input": text, **renamed}

    def read(self, document: Any) -> ChatReply:
        messages = [item for item in document["output"] if item["type"] == "message"]
        usage, is_cut = document["usage"], document["incomplete_details"]
        return ChatReply(
            "".join(part["text"] for item in messages for part in item["content"]),
            "length" if is_cut else "stop",
            usage["input_tokens"],
            usage["output_tokens"],
        )

    def read_stream(self, text: str) -> ChatReply:
        events = [json.loads(event) for event in _events(text) if event != "[DONE]"]
        if events[-1]["type"] not in ("response.completed", "response.incomplete"):
            raise PromiseBroken(f"the stream ends with {events[-1]['type']}")
        return self.read(events[-1]["response"])


class _DetailErrors(DialectProfile):
    def is_error(self, document: Any) -> bool:
        return isinstance(document, dict) and isinstance(document.get("detail"), str | list)


class _Infermatic(DialectProfile):
    name = "infermatic"
    unknown_model_status = 400


class _Float16(_DetailErrors):
    name = "float16"
    base = "http://HOST"
    out_of_range_status = missing_field_status = 422

    def path(self, model: str) -> str:
        return f"/{model}/v1/chat/completions"


class _Empower(DialectProfile):
    name = "empower"
    base = "http://HOST/empower/api/v1"
    has_stop_strings = False


class _Arcee(_DetailErrors):
    name = "arcee"
    base = "http://HOST/api/v1"
    unknown_model_status = out_of_range_status = 422


class _Scale(_DetailErrors):
    name = "scale"
    base = "http://HOST/v4"
    out_of_range_status = missing_field_status = 422

    def path(self, model: str) -> str:
        return f"/models/{model}/chat-completions"

    def body(self, model: str, text: str, **options: Any) -> dict[str, Any]:  # noqa: ARG002 - the path names it
        renamed = {"stop_sequences" if name == "stop" else name: value for name, value in options.items()}
        return {"chat_history": [], "prompt": text, **renamed}

    def read(self, document: Any) -> ChatReply:
        [[_, [text]]] = document["completions"]
        return ChatReply(text, document["finish_reason"], document["prompt_tokens"], document["response_tokens"])

    def read_stream(self, text: str) -> ChatReply:
        replies = [self.read(json.loads(event)) for event in _events(text)]
        if replies[-1].finish_reason is None:
            raise PromiseBroken("the stream ends without a finish reason")
        return replies[-1]._replace(text="".join(reply.text for reply in replies))


def _events(text: str) -> Iterator[str]:
    """Yield the data of each server-sent event."""
    for block in text.split("\n\n"):
        data = [line.removeprefix("data:").strip() for line in block.splitlines() if line.startswith("data:")]
        if data:
            yield "\n".join(data)


_ALL = (DialectProfile(), _Infermatic(), _Float16(), _Empower(), _Arcee(), _Scale(), _Responses())

PROFILES: Mapping[str, DialectProfile] = {profile.name: profile for profile in _ALL}
"""Name → profile."""
