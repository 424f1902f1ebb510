"""The routes of all dialects whose response builders are tested alike, and readers of their responses."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from dragoman.core.events import (
    CUT_OFF,
    ChoiceEvent,
    Delta,
    Event,
    Finished,
    ReasoningDelta,
    TokenLogprobs,
    ToolCallDelta,
)
from dragoman.core.models import ServedModel
from dragoman.dialects.anthropic import codec as anthropic
from dragoman.dialects.http.codec import DecodedRequest, ResponseBuilder
from dragoman.dialects.openai import codec as openai
from dragoman.dialects.responses import codec as responses
from dragoman.dialects.vendors.arcee import codec as arcee
from dragoman.dialects.vendors.empower import codec as empower
from dragoman.dialects.vendors.float16 import codec as float16
from dragoman.dialects.vendors.infermatic import codec as infermatic
from dragoman.dialects.vendors.scale import codec as scale
from tests.support.dialects.anthropic_streams import assembled_message
from tests.support.dialects.assembling import chat_tokens, indices, merge_tool_call, text_tokens, top_by_text
from tests.support.dialects.decode_contexts import decode_context

MODEL = ServedModel(id="m", aliases=(), context_length=8192, supports_reasoning=True)
CHAT_BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STREAM_OPTIONS = {"stream": True, "stream_options": {"include_usage": True}}


class AssembledChoice(NamedTuple):
    """One choice, streamed or not. None: the dialect does not render the member."""

    text: str
    finish_reason: str
    reasoning: str | None = None
    tool_calls: list[tuple[str, str, str]] | None = None
    """Id, name and arguments."""
    logprobs: list[Any] | None = None


class DialectCase(ABC):
    """A route of a dialect."""

    name: str
    max_choices = 3
    renders_reasoning = False
    renders_tool_calls = False
    renders_logprobs = False

    @abstractmethod
    def decode(self, **fields: Any) -> DecodedRequest:
        """Decode a request to this route that asks for everything the route can return."""

    @abstractmethod
    def read(self, document: Any) -> list[AssembledChoice]:
        """Read a whole answer."""

    @abstractmethod
    def read_stream(self, chunks: list[Any]) -> list[AssembledChoice]:
        """Read all chunks of a stream, without its usage."""

    def expected(self, events: Sequence[Event]) -> list[AssembledChoice]:
        """Return what a client must receive for the events."""
        return [self._expected_choice(events, event) for event in sorted_finished_events(events)]

    def _expected_choice(self, events: Sequence[Event], finished: Finished) -> AssembledChoice:
        own = [event for event in events if isinstance(event, ChoiceEvent) and event.index == finished.index]
        deltas = [event for event in own if isinstance(event, Delta)]
        return AssembledChoice(
            "".join(delta.text for delta in deltas),
            finished.reason,
            "".join(e.text for e in own if isinstance(e, ReasoningDelta)) if self.renders_reasoning else None,
            tool_calls_of([e for e in own if isinstance(e, ToolCallDelta)]) if self.renders_tool_calls else None,
            self.expected_logprobs([token for delta in deltas for token in delta.logprobs])
            if self.renders_logprobs
            else None,
        )

    def expected_logprobs(self, logprobs: list[TokenLogprobs]) -> list[Any]:
        """Return log-probabilities as in the route's JSON, token by token."""
        return [[list(t.token), t.logprob, [[list(top.token), top.logprob] for top in t.top]] for t in logprobs]


class ChatDialectCase(DialectCase):
    """A chat route in OpenAI's shape."""

    reasoning_field = "reasoning"

    def read(self, document: Any) -> list[AssembledChoice]:
        return [self._assembled(choice, choice["message"], choice.get("logprobs")) for choice in document["choices"]]

    def _assembled(self, choice: Any, message: Any, logprobs: Any) -> AssembledChoice:
        calls = [
            (call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or []
        ]
        assert message["content"] is not None or calls, "only a choice with tool calls may have no content"
        return AssembledChoice(
            message["content"] or "",
            choice["finish_reason"],
            message.get(self.reasoning_field, "") if self.renders_reasoning else None,
            calls if self.renders_tool_calls else None,
            chat_tokens(logprobs["content"]) if self.renders_logprobs else None,
        )

    def read_stream(self, chunks: list[Any]) -> list[AssembledChoice]:
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        return [self._merged([c for c in choices if c["index"] == index]) for index in indices(choices)]

    def _merged(self, choices: list[Any]) -> AssembledChoice:
        message: dict[str, Any] = {"content": "", self.reasoning_field: "", "tool_calls": []}
        logprobs: list[Any] = []
        for choice in choices:
            delta = choice["delta"]
            for member in ("content", self.reasoning_field):
                message[member] += delta.get(member, "")
            for piece in delta.get("tool_calls", []):
                merge_tool_call(message["tool_calls"], piece)
            logprobs += (choice.get("logprobs") or {"content": []})["content"]
        return self._assembled({"finish_reason": choices[-1]["finish_reason"]}, message, {"content": logprobs})


class TextDialectCase(DialectCase):
    """A text route in OpenAI's shape."""

    def read(self, document: Any) -> list[AssembledChoice]:
        return [self._assembled(choice) for choice in document["choices"]]

    def _assembled(self, choice: Any) -> AssembledChoice:
        rows = text_tokens(choice["logprobs"]) if self.renders_logprobs else None
        return AssembledChoice(choice["text"], choice["finish_reason"], logprobs=rows)

    def read_stream(self, chunks: list[Any]) -> list[AssembledChoice]:
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        return [self._merged([c for c in choices if c["index"] == index]) for index in indices(choices)]

    def _merged(self, choices: list[Any]) -> AssembledChoice:
        rows = [row for choice in choices if choice.get("logprobs") for row in text_tokens(choice["logprobs"])]
        text = "".join(choice["text"] for choice in choices)
        return AssembledChoice(text, choices[-1]["finish_reason"], logprobs=rows if self.renders_logprobs else None)


class Arcee(ChatDialectCase):
    name = "arcee"
    renders_reasoning = renders_tool_calls = renders_logprobs = True

    def decode(self, **fields: Any) -> DecodedRequest:
        body = {"logprobs": True, "top_logprobs": 2, **CHAT_BODY, **fields}
        return arcee.decode_chat(json.dumps(body).encode(), decode_context([MODEL]))


class InfermaticChat(ChatDialectCase):
    name = "infermatic chat"
    renders_reasoning = renders_tool_calls = renders_logprobs = True
    reasoning_field = "reasoning_content"

    def decode(self, **fields: Any) -> DecodedRequest:
        body = {"logprobs": True, "top_logprobs": 2, **CHAT_BODY, **fields}
        return infermatic.decode_chat(json.dumps(body).encode(), decode_context())


class InfermaticText(TextDialectCase):
    name = "infermatic text"
    renders_logprobs = True

    def decode(self, **fields: Any) -> DecodedRequest:
        body = {"model": "m", "prompt": "Hi", "logprobs": 2, **fields}
        return infermatic.decode_text(json.dumps(body).encode(), decode_context())

    def expected_logprobs(self, logprobs: list[TokenLogprobs]) -> list[Any]:
        return [
            [t.token.decode(errors="replace"), t.logprob, None if t.logprob is None else top_by_text(t)]
            for t in logprobs
        ]


class OpenAIChat(ChatDialectCase):
    name = "openai chat"
    renders_reasoning = renders_tool_calls = renders_logprobs = True

    def decode(self, **fields: Any) -> DecodedRequest:
        body = {"logprobs": True, "top_logprobs": 2, **CHAT_BODY, **fields}
        return openai.decode_chat(json.dumps(body).encode(), decode_context())


class OpenAIText(InfermaticText):
    name = "openai text"

    def decode(self, **fields: Any) -> DecodedRequest:
        body = {"model": "m", "prompt": "Hi", "logprobs": 2, **fields}
        return openai.decode_text(json.dumps(body).encode(), decode_context())


class ResponsesCase(DialectCase):
    name = "responses"
    max_choices = 1
    renders_reasoning = renders_tool_calls = renders_logprobs = True

    def decode(self, **fields: Any) -> DecodedRequest:
        body = {
            "model": "m",
            "input": "Hi",
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 2,
            **{name: value for name, value in fields.items() if name != "stream_options"},
        }
        return responses.decode_response(json.dumps(body).encode(), decode_context())

    def read(self, document: Any) -> list[AssembledChoice]:
        items = document["output"]
        parts = [part for item in items if item["type"] == "message" for part in item["content"]]
        reasoning = [part["text"] for item in items if item["type"] == "reasoning" for part in item["content"]]
        calls = [(item["call_id"], item["name"], item["arguments"]) for item in items if "call_id" in item]
        cut_off_by = (document["incomplete_details"] or {}).get("reason")
        reasons = {"max_output_tokens": "length", "content_filter": "content_filter"}
        reason = reasons[cut_off_by] if cut_off_by else "tool_calls" if calls else "stop"
        logprobs = chat_tokens([token for part in parts for token in part["logprobs"]])
        return [AssembledChoice("".join(part["text"] for part in parts), reason, "".join(reasoning), calls, logprobs)]

    def read_stream(self, chunks: list[Any]) -> list[AssembledChoice]:
        """Put the response together from the events before the last one."""
        items = [chunk["item"] for chunk in chunks if chunk["type"] == "response.output_item.done"]
        details = chunks[-1]["response"]["incomplete_details"]
        return self.read({"output": items, "incomplete_details": details})


class Empower(ChatDialectCase):
    name = "empower"
    renders_tool_calls = True

    def decode(self, **fields: Any) -> DecodedRequest:
        return empower.decode_chat(json.dumps({**CHAT_BODY, **fields}).encode(), decode_context())


class Float16Chat(ChatDialectCase):
    name = "float16 chat"

    def decode(self, **fields: Any) -> DecodedRequest:
        return float16.decode_chat(
            json.dumps({**CHAT_BODY, **fields}).encode(), decode_context([MODEL], deployment="m")
        )


class Float16Text(TextDialectCase):
    name = "float16 text"

    def decode(self, **fields: Any) -> DecodedRequest:
        return float16.decode_text(
            json.dumps({"model": "m", "prompt": "Hi", **fields}).encode(), decode_context([MODEL], deployment="m")
        )


class ScaleDeployment(DialectCase):
    name = "scale deployment"
    max_choices = 1
    renders_logprobs = True

    def decode(self, **fields: Any) -> DecodedRequest:
        body = {"chat_history": [], "prompt": "Hi", "logprobs": True, "top_logprobs": 2, **fields}
        return scale.decode_deployment_chat(json.dumps(body).encode(), decode_context(deployment="m"))

    def read(self, document: Any) -> list[AssembledChoice]:
        [[_, [text]]] = document["completions"]
        tokens = [token for choice in document["choices"] or [] for token in choice["logprobs"]["content"]]
        return [AssembledChoice(text, document["finish_reason"], logprobs=chat_tokens(tokens))]

    def read_stream(self, chunks: list[Any]) -> list[AssembledChoice]:
        pieces = [piece for chunk in chunks for piece in self.read(chunk)]
        tokens = [token for piece in pieces for token in piece.logprobs or []]
        return [AssembledChoice("".join(piece.text for piece in pieces), pieces[-1].finish_reason, logprobs=tokens)]


class ScaleChat(DialectCase):
    name = "scale chat"
    max_choices = 1

    def decode(self, **fields: Any) -> DecodedRequest:
        return scale.decode_chat(json.dumps({**CHAT_BODY, **fields}).encode(), decode_context())

    def read(self, document: Any) -> list[AssembledChoice]:
        completion = document["chat_completion"]
        return [AssembledChoice(completion["message"]["content"], completion["finish_reason"])]

    def read_stream(self, chunks: list[Any]) -> list[AssembledChoice]:
        pieces = [piece for chunk in chunks for piece in self.read(chunk)]
        return [AssembledChoice("".join(piece.text for piece in pieces), pieces[-1].finish_reason)]


class Anthropic(DialectCase):
    name = "anthropic"
    max_choices = 1
    renders_reasoning = renders_tool_calls = True

    def decode(self, **fields: Any) -> DecodedRequest:
        body = {"max_tokens": 1, **CHAT_BODY, **fields}
        return anthropic.decode_messages(json.dumps(body).encode(), decode_context([MODEL]))

    def _expected_choice(self, events: Sequence[Event], finished: Finished) -> AssembledChoice:
        """Return the choice; inputs that are no JSON object are empty, and left out of the last call if it is cut."""
        choice = super()._expected_choice(events, finished)
        calls = [(call_id, name, as_object(arguments)) for call_id, name, arguments in choice.tool_calls or []]
        if calls and finished.reason in CUT_OFF and calls[-1][2] is None:
            calls.pop()
        tool_calls = [(call_id, name, arguments or "{}") for call_id, name, arguments in calls]
        return choice._replace(tool_calls=tool_calls)

    def read(self, document: Any) -> list[AssembledChoice]:
        blocks = document["content"]
        reasons = {
            "end_turn": "stop",
            "max_tokens": "length",
            "tool_use": "tool_calls",
            "refusal": "content_filter",
        }
        assert all(block.get("text", block.get("thinking", "x")) for block in blocks), "no block is empty"
        return [
            AssembledChoice(
                "".join(block["text"] for block in blocks if block["type"] == "text"),
                reasons[document["stop_reason"]],
                "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
                [
                    (block["id"].removeprefix("toolu_"), block["name"], json.dumps(block["input"]))
                    for block in blocks
                    if block["type"] == "tool_use"
                ],
            )
        ]

    def read_stream(self, chunks: list[Any]) -> list[AssembledChoice]:
        return self.read(assembled_message(chunks))


def as_object(arguments: str) -> str | None:
    """Return the arguments of a call in Python's own JSON; None: they are no JSON object."""
    try:
        value = json.loads(arguments or "{}")
    except ValueError:
        return None
    return json.dumps(value) if isinstance(value, dict) else None


DIALECT_CASES: list[DialectCase] = [
    Anthropic(),
    Arcee(),
    InfermaticChat(),
    InfermaticText(),
    OpenAIChat(),
    OpenAIText(),
    ResponsesCase(),
    Empower(),
    Float16Chat(),
    Float16Text(),
    ScaleDeployment(),
    ScaleChat(),
]


def stream_documents(builder: ResponseBuilder, events: Sequence[Event]) -> list[Any]:
    """Return the documents of a stream."""
    return [json.loads(sent.data) for event in events for sent in builder.feed(event)]


def build_response(builder: ResponseBuilder, events: Sequence[Event]) -> Any:
    """Return the whole answer, which is built without the documents of a stream."""
    for event in events:
        builder.note(event)
    return json.loads(builder.build())


def sorted_finished_events(events: Sequence[Event]) -> list[Finished]:
    """Return the ends of all choices, in the order of the choices."""
    return sorted((event for event in events if isinstance(event, Finished)), key=lambda event: event.index)


def tool_calls_of(pieces: list[ToolCallDelta]) -> list[tuple[str, str, str]]:
    """Assemble the calls of the parts."""
    return [
        (
            piece.id or "",
            piece.name or "",
            "".join(other.arguments for other in pieces if other.call_index == piece.call_index),
        )
        for piece in pieces
        if piece.name is not None
    ]
