"""From the chunks of an upstream's stream to events: a state machine that also keeps count of tokens.

Chunks are in no reference cycle, so the garbage collector does not track them (`gc=False`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dragoman.core.errors import EngineFailed
from dragoman.core.events import (
    Delta,
    Event,
    Finished,
    FinishReason,
    PromptTokens,
    ReasoningDelta,
    Started,
    TokenLogprobs,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from dragoman.core.limits import MAX_TOKENS, is_token_count
from dragoman.engines.upstream.replies import decode_reply
from dragoman.engines.upstream.tool_call_numbers import ToolCallNumbers

UNKNOWN_TOKEN = -1
"""The id of a token of which only the text is known."""

_FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}
"""All others end the answer as the model's own end does."""

_GIVEN_UP = ("abort", "error", "insufficient_system_resource")
"""Finish reasons of answers that their server could not complete."""


_Byte = Annotated[int, Meta(ge=0, le=255)]

_TokenId = Annotated[int, Meta(ge=-MAX_TOKENS, le=MAX_TOKENS)]


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _TopLogprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[_Byte] | None = None


class _TokenLogprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[_Byte] | None = None
    top_logprobs: list[_TopLogprob] | None = None


class _Logprobs(msgspec.Struct, gc=False):
    """Of a conversation's answer, or of a text's."""

    content: list[_TokenLogprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _ChunkDelta(msgspec.Struct, gc=False):
    content: str | None = None
    refusal: str | None = None
    """OpenAI's, of an answer that shall follow a schema: it has no other text then."""
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _ChunkChoice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _ChunkDelta | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | _TokenId | None = None
    token_ids: list[_TokenId] | None = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    @property
    def is_possible(self) -> bool:
        """Whether an answer may have it."""
        prompt_details, completion_details = self.prompt_tokens_details, self.completion_tokens_details
        cached = None if prompt_details is None else prompt_details.cached_tokens
        reasoning = None if completion_details is None else completion_details.reasoning_tokens
        counts = (self.prompt_tokens, self.completion_tokens, cached, reasoning)
        return all(is_token_count(count or 0) for count in counts)


class _Chunk(msgspec.Struct, gc=False):
    object: str | None = None
    """"error": the chunk is one, with its fields at the top."""
    choices: list[_ChunkChoice] | None = None
    usage: _Usage | None = None
    error: Any = None
    prompt_token_ids: list[_TokenId] | None = None


_decode = msgspec.json.Decoder(_Chunk).decode

DONE = b"[DONE]"


class BrokenAnswer(EngineFailed):
    """The upstream's stream is no answer: it is malformed or reports an error."""

    def __init__(self, message: str, report: bytes = b"") -> None:
        """`report` is the chunk with the error that the upstream reports."""
        super().__init__(message)
        self.report = report


class UpstreamAnswer:
    """The state of one answer."""

    def __init__(self, *, n: int, prompt_tokens: int, reports_prompt: bool = False) -> None:
        """`prompt_tokens` is what was counted or estimated before, in case the upstream reports nothing."""
        self._n = n
        self._prompt_tokens = prompt_tokens
        self._reports_prompt = reports_prompt
        self._counted = 0
        """Tokens that deltas have counted."""
        self._usage: _Usage | None = None
        self._unfinished = set(range(n))
        self._has_started = False
        self._calls: dict[int, ToolCallNumbers] = {}
        """Of the choices with tool calls."""

    @property
    def has_started(self) -> bool:
        """Whether an event was returned."""
        return self._has_started

    @property
    def is_finished(self) -> bool:
        """Whether every choice has ended."""
        return not self._unfinished

    def feed(self, chunks: Iterable[bytes]) -> Iterator[Event]:
        """Return the events of chunks that arrived together, in which adjoining texts are one. Raises BrokenAnswer.

        So a client that reads more slowly than the upstream writes costs less and less of a token, not more.
        """
        texts: list[str] = []
        index = tokens = 0
        try:
            for data in chunks:
                chunk = self._decoded(data)
                if (choice := self._mergeable(chunk)) is None or (texts and choice.index != index):
                    yield from _merged(index, texts, tokens)
                    tokens = 0
                    texts.clear()
                if choice is None:
                    yield from self._events(chunk)
                    continue
                assert choice.delta is not None, "it has text"
                index = choice.index
                tokens += self._count_mergeable(chunk)
                texts.append(choice.delta.content or "")
        except BrokenAnswer:
            yield from _merged(index, texts, tokens)
            raise
        yield from _merged(index, texts, tokens)

    def _decoded(self, data: bytes) -> _Chunk:
        try:
            chunk = decode_reply(_decode, data)
        except msgspec.MsgspecError as error:
            raise BrokenAnswer(f"The upstream sent a chunk that is none: {error}") from None
        if chunk.error is not None or chunk.object == "error":
            raise BrokenAnswer("The upstream reports an error within its answer", data)
        return chunk

    def _mergeable(self, chunk: _Chunk) -> _ChunkChoice | None:
        """Return the choice of a chunk that has nothing but text of one choice, which has begun and goes on."""
        if chunk.choices is None or len(chunk.choices) != 1 or not self._has_started:
            return None
        [choice] = chunk.choices
        delta = choice.delta
        is_text = (
            delta is not None and delta.content and not (delta.reasoning or delta.reasoning_content or delta.refusal)
        )
        if not is_text or (delta is not None and delta.tool_calls) or choice.index not in self._unfinished:
            return None
        if choice.finish_reason or choice.logprobs is not None or choice.token_ids is not None:
            return None
        return choice

    def _count_mergeable(self, chunk: _Chunk) -> int:
        new_tokens = self._note_usage(chunk.usage)
        tokens = 1 if new_tokens is None or self._n > 1 else new_tokens
        self._counted += tokens
        return tokens

    def _events(self, chunk: _Chunk) -> list[Event]:
        events: list[Event] = []
        new_tokens = self._note_usage(chunk.usage)
        for choice in chunk.choices or ():
            if choice.index not in self._unfinished:
                continue
            if choice.finish_reason in _GIVEN_UP:
                raise BrokenAnswer(f"The upstream gave its answer up: {choice.finish_reason}")
            deltas = self._count(_deltas(choice) + self._call_deltas(choice), choice, new_tokens)
            if not self._has_started and (deltas or choice.finish_reason):
                events += self._start(chunk)
            events += deltas
            if choice.finish_reason:  # Some servers write an empty one until then.
                self._unfinished.discard(choice.index)
                events.append(Finished(choice.index, self._finish_reason(choice), choice.stop_reason))
        return events

    def usage(self) -> Usage:
        """Return the usage of the whole answer: the upstream's own, or what was counted."""
        usage = self._usage
        if usage is None or (completion_tokens := self._believed_completion(usage)) is None:
            return Usage(self._prompt_tokens, self._counted, 0, source="estimated")
        prompt_tokens, cached_tokens = self._prompt_of(usage)
        details = usage.completion_tokens_details
        reasoning_tokens = _part(None if details is None else details.reasoning_tokens, completion_tokens)
        return Usage(prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, source="upstream")

    def _believed_completion(self, usage: _Usage) -> int | None:
        """Return the tokens of the answer. None: the upstream has not counted them. Some write 0 until the end."""
        count = _completion_of(usage)
        return count if count or not self._counted else None

    def _prompt_of(self, usage: _Usage | None) -> tuple[int, int]:
        """Return the tokens of the prompt, and how many of them were cached."""
        if usage is None or not (prompt_tokens := usage.prompt_tokens):  # Ollama counts none of what it has cached.
            return self._prompt_tokens, 0
        details = usage.prompt_tokens_details
        return prompt_tokens, _part(None if details is None else details.cached_tokens, prompt_tokens)

    def _finish_reason(self, choice: _ChunkChoice) -> FinishReason:
        """Return the reason. Some servers report the end of a call that was required as an ordinary one."""
        reason = _FINISH_REASONS.get(choice.finish_reason or "", "stop")
        return "tool_calls" if reason == "stop" and choice.index in self._calls else reason

    def _note_usage(self, usage: _Usage | None) -> int | None:
        """Return the tokens since the last chunk, if the upstream counts continuously."""
        if usage is None or not usage.is_possible:
            return None
        if (completion_tokens := self._believed_completion(usage)) is None:
            return None
        self._usage = usage
        return max(0, completion_tokens - self._counted) if completion_tokens else None

    def _start(self, chunk: _Chunk) -> list[Event]:
        self._has_started = True
        started = Started(*self._prompt_of(self._usage))
        if not self._reports_prompt or chunk.prompt_token_ids is None:
            return [started]
        return [started, *(PromptTokens(index, chunk.prompt_token_ids) for index in range(self._n))]

    def _call_deltas(self, choice: _ChunkChoice) -> list[Event]:
        if choice.delta is None or not choice.delta.tool_calls:
            return []
        numbers = self._calls.setdefault(choice.index, ToolCallNumbers())
        return [_call_delta(choice.index, call, numbers) for call in choice.delta.tool_calls]

    def _count(self, deltas: list[Event], choice: _ChunkChoice, new_tokens: int | None) -> list[Event]:
        """Return the deltas, the first of which counts the tokens of the chunk."""
        token_ids = choice.token_ids
        if token_ids is not None:
            tokens = len(token_ids)
        elif new_tokens is not None and self._n == 1:
            tokens = new_tokens
        else:
            tokens = int(bool(deltas))  # A chunk of a server that does not count is taken for a token.
        if not deltas and tokens:
            deltas = [Delta(choice.index, "")]
        self._counted += tokens
        if tokens and token_ids is not None:
            deltas[0] = msgspec.structs.replace(deltas[0], token_ids=token_ids)
        elif tokens:
            deltas[0] = msgspec.structs.replace(deltas[0], unidentified_tokens=tokens)
        return deltas


def _completion_of(usage: _Usage) -> int | None:
    """Return the tokens of the answer with its reasoning, which xAI and Gemini count beside it and not in it."""
    completion, details = usage.completion_tokens, usage.completion_tokens_details
    reasoning = 0 if details is None else details.reasoning_tokens or 0
    if completion is None or usage.total_tokens != (usage.prompt_tokens or 0) + completion + reasoning:
        return completion
    return completion + reasoning


def _part(count: int | None, whole: int) -> int:
    return min(count or 0, whole)


def _merged(index: int, texts: Sequence[str], tokens: int) -> Iterator[Event]:
    if texts:
        yield Delta(index, "".join(texts), unidentified_tokens=tokens)


def _deltas(choice: _ChunkChoice) -> list[Event]:
    """Return the text and reasoning of a chunk, without counts of tokens."""
    index, delta = choice.index, choice.delta
    logprobs = [] if choice.logprobs is None else _token_logprobs(choice.logprobs)
    if delta is None:
        return [Delta(index, choice.text or "", [], logprobs)] if choice.text or logprobs else []
    deltas: list[Event] = []
    if reasoning := delta.reasoning or delta.reasoning_content:
        deltas.append(ReasoningDelta(index, reasoning))
    text = (delta.content or "") + (delta.refusal or "")
    if text or (logprobs and not reasoning):
        deltas.append(Delta(index, text, [], logprobs))
    return deltas


def _call_delta(index: int, call: _ToolCall, numbers: ToolCallNumbers) -> ToolCallDelta:
    function = call.function or _Function()
    arguments = function.arguments or ""
    if not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode()
    piece = numbers.number(call.index or 0, call.id, function.name, arguments)
    return ToolCallDelta(index=index, call_index=piece.number, arguments=arguments, id=piece.id, name=piece.name)


def _token_logprobs(logprobs: _Logprobs) -> list[TokenLogprobs]:
    if logprobs.content is not None:
        return [
            TokenLogprobs(UNKNOWN_TOKEN, _bytes(entry), entry.logprob, list(map(_top, entry.top_logprobs or ())))
            for entry in logprobs.content
        ]
    tops: Sequence[dict[str, float] | None] = logprobs.top_logprobs or [None] * len(logprobs.tokens or ())
    return [
        TokenLogprobs(
            UNKNOWN_TOKEN,
            token.encode(),
            logprob,
            [TopLogprob(UNKNOWN_TOKEN, text.encode(), value) for text, value in (top or {}).items()],
        )
        for token, logprob, top in zip(logprobs.tokens or (), logprobs.token_logprobs or (), tops, strict=False)
    ]


def _top(entry: _TopLogprob) -> TopLogprob:
    return TopLogprob(UNKNOWN_TOKEN, _bytes(entry), entry.logprob)


def _bytes(entry: _TokenLogprob | _TopLogprob) -> bytes:
    return entry.token.encode() if entry.bytes is None else bytes(entry.bytes)
