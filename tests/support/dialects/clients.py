"""Clients of the dialects with one interface."""

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from tests.support.dialects.anthropic_streams import message_of


class Reply(NamedTuple):
    """An answer, streamed or not."""

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


class DialectClient(ABC):
    """A client of one dialect. `model` is the deployment's name."""

    name: ClassVar[str]
    unknown_model_status: ClassVar[int]
    out_of_range_status: ClassVar[int]
    missing_field_status: ClassVar[int]
    overflow_status: ClassVar[int]
    out_of_balance_status: ClassVar[int] = 402
    overloaded_status: ClassVar[int] = 503
    upstream_timeout_status: ClassVar[int] = 504
    supports_stop: ClassVar[bool] = True
    messages_field: ClassVar[str] = "messages"
    clamps_temperature: ClassVar[bool] = False

    @abstractmethod
    def path(self, model: str) -> str:
        """Return the path of the chat route."""

    def body(self, model: str, text: str, **options: Any) -> dict[str, Any]:
        """Return a chat of one message. Options: max_tokens, stop, temperature, stream."""
        return {"model": model, "messages": [{"role": "user", "content": text}], **self.options(options)}

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options under the dialect's names."""
        usage = {"stream_options": {"include_usage": True}} if options.get("stream") else {}
        return options | usage

    def read(self, document: Any) -> Reply:
        """Read a whole answer."""
        [choice] = document["choices"]
        usage = document["usage"]
        return Reply(
            choice["message"]["content"], choice["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"]
        )

    def read_stream(self, text: str) -> Reply:
        """Read a complete stream."""
        *blocks, end = text.split("\n\n")
        assert (blocks.pop(), end) == ("data: [DONE]", ""), "a stream has its terminator"
        chunks = [json.loads(block.removeprefix("data: ")) for block in blocks if not block.startswith(":")]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        usage = chunks[-1]["usage"]
        return Reply(
            "".join(choice["delta"].get("content") or "" for choice in choices),
            choices[-1]["finish_reason"],
            usage["prompt_tokens"],
            usage["completion_tokens"],
        )

    def ends_with_error(self, text: str) -> bool:
        """Whether a stream ends with the dialect's error, and without its terminator."""
        last = text.rstrip("\n").rpartition("\n\n")[2]
        return last.startswith("data: ") and "error" in json.loads(last.removeprefix("data: "))

    def is_error(self, document: Any) -> bool:
        """Whether a document is an error in the dialect's envelope."""
        return isinstance(document["detail"], str | list)

    def names_field(self, text: str, field: str) -> bool:
        """Whether an error names this field of the request."""
        return f'"{field}"' in text


class Infermatic(DialectClient):
    name = "infermatic"
    unknown_model_status = out_of_range_status = missing_field_status = overflow_status = 400
    out_of_balance_status = 400
    overloaded_status = 429
    upstream_timeout_status = 408

    def path(self, model: str) -> str:
        return "/v1/chat/completions"

    def is_error(self, document: Any) -> bool:
        return set(document["error"]) == {"message", "type", "param", "code"}


class OpenAI(DialectClient):
    name = "openai"
    unknown_model_status = 404
    out_of_range_status = missing_field_status = overflow_status = 400
    out_of_balance_status = 429

    def path(self, model: str) -> str:
        return "/openai/v1/chat/completions"

    def is_error(self, document: Any) -> bool:
        return set(document["error"]) == {"message", "type", "param", "code"}


class Responses(DialectClient):
    name = "responses"
    unknown_model_status = 404
    out_of_range_status = missing_field_status = overflow_status = 400
    out_of_balance_status = 429
    messages_field = "input"

    def path(self, model: str) -> str:
        return "/v1/responses"

    def body(self, model: str, text: str, **options: Any) -> dict[str, Any]:
        return {"model": model, "input": text, **self.options(options)}

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        names = {"max_tokens": "max_output_tokens"}
        return {names.get(name, name): value for name, value in options.items()}

    def read(self, document: Any) -> Reply:
        usage = document["usage"]
        text = "".join(part["text"] for item in document["output"] for part in item.get("content", []))
        reason = "length" if document["incomplete_details"] else "stop"
        return Reply(text, reason, usage["input_tokens"], usage["output_tokens"])

    def read_stream(self, text: str) -> Reply:
        *blocks, end = text.split("\n\n")
        assert (blocks.pop(), end) == ("data: [DONE]", ""), "a stream has its terminator"
        events = [json.loads(block.partition("\ndata: ")[2]) for block in blocks if block.startswith("event: ")]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        reply = self.read(events[-1]["response"])
        deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
        assert "".join(deltas) == reply.text
        return reply

    def ends_with_error(self, text: str) -> bool:
        # A stream that can be resumed is only interrupted, and one that hits a defect cannot say more.
        *_, before, last = ["", *text.rstrip("\n").split("\n\n")]
        return last.startswith("event: error\n") or (
            before.startswith("event: error\n") and last.startswith("event: response.failed\n")
        )

    def is_error(self, document: Any) -> bool:
        return set(document["error"]) == {"message", "type", "param", "code"}


class Float16(DialectClient):
    name = "float16"
    unknown_model_status = 404
    out_of_range_status = missing_field_status = 422
    overflow_status = 400

    def path(self, model: str) -> str:
        return f"/{model}/v1/chat/completions"


class Empower(DialectClient):
    name = "empower"
    unknown_model_status = 404
    out_of_range_status = missing_field_status = overflow_status = 400
    supports_stop = False

    def path(self, model: str) -> str:
        return "/empower/api/v1/chat/completions"

    def is_error(self, document: Any) -> bool:
        return set(document["error"]) == {"message", "type", "param", "code"}


class Arcee(DialectClient):
    name = "arcee"
    unknown_model_status = out_of_range_status = overflow_status = 422
    missing_field_status = 400

    def path(self, model: str) -> str:
        return "/api/v1/chat/completions"


class Scale(DialectClient):
    name = "scale"
    messages_field = "chat_history"
    unknown_model_status = 404
    out_of_range_status = missing_field_status = 422
    overflow_status = 400
    clamps_temperature = True

    def path(self, model: str) -> str:
        return f"/v4/models/{model}/chat-completions"

    def body(self, model: str, text: str, **options: Any) -> dict[str, Any]:
        return {"chat_history": [], "prompt": text, **self.options(options)}

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        if "stop" not in options:
            return options
        rest = {key: value for key, value in options.items() if key != "stop"}
        return rest | {"stop_sequences": options["stop"]}

    def read(self, document: Any) -> Reply:
        [[_, [text]]] = document["completions"]
        return Reply(text, document["finish_reason"], document["prompt_tokens"], document["response_tokens"])

    def read_stream(self, text: str) -> Reply:
        assert "[DONE]" not in text
        events = [json.loads(block.removeprefix("data: ")) for block in text.split("\n\n") if block.startswith("data")]
        pieces = [self.read(event) for event in events]
        assert pieces[-1].finish_reason is not None, "a stream ends with its finish reason"
        return pieces[-1]._replace(text="".join(piece.text for piece in pieces))

    def ends_with_error(self, text: str) -> bool:
        last = text.rstrip("\n").rpartition("\n\n")[2]
        event, _, data = last.partition("\n")
        return event == "event: error" and "detail" in json.loads(data.removeprefix("data: "))


class Anthropic(DialectClient):
    name = "anthropic"
    unknown_model_status = 404
    out_of_range_status = missing_field_status = overflow_status = 400
    overloaded_status = 529

    def path(self, model: str) -> str:
        return "/v1/messages"

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        names = {"stop": "stop_sequences"}
        return {"max_tokens": 10**6, **{names.get(name, name): value for name, value in options.items()}}

    def read(self, document: Any) -> Reply:
        usage = document["usage"]
        reasons = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}
        return Reply(
            "".join(block["text"] for block in document["content"] if block["type"] == "text"),
            reasons.get(document["stop_reason"]),
            usage["input_tokens"] + usage["cache_creation_input_tokens"] + usage["cache_read_input_tokens"],
            usage["output_tokens"],
        )

    def read_stream(self, text: str) -> Reply:
        return self.read(message_of(text))

    def ends_with_error(self, text: str) -> bool:
        last = text.rstrip("\n").rpartition("\n\n")[2]
        event, _, data = last.partition("\n")
        return event == "event: error" and self.is_error(json.loads(data.removeprefix("data: ")))

    def is_error(self, document: Any) -> bool:
        return set(document["error"]) == {"type", "message"}

    def names_field(self, text: str, field: str) -> bool:
        return f'"{field}: ' in text


DIALECT_CLIENTS: list[DialectClient] = [
    Infermatic(),
    OpenAI(),
    Responses(),
    Anthropic(),
    Float16(),
    Empower(),
    Arcee(),
    Scale(),
]
