"""The echo engine: deterministic, with a configurable speed, for everything in which inference is not the subject.

Its tokens are the bytes of UTF-8, so every text has one obvious tokenization, and characters outside ASCII are split
across tokens. It answers a conversation with the content of the last message and a raw prompt with the prompt, then
samples END. With ignore_eos or min_tokens it repeats the answer. It leaves out the tokens that allowed_token_ids or
bad_words forbid. Every log-probability is 0. It never reasons, calls tools if the repeated text does, and rejects
requests that constrain the answer's form. A resumed answer is replayed without delay up to where it was interrupted,
then continues at the usual speed.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence

import msgspec

from dragoman import __version__
from dragoman.core.capabilities import ALL_CAPABILITIES, Capability
from dragoman.core.errors import BadRequest, ContextOverflow
from dragoman.core.events import Delta, Event, Finished, PromptTokens, Started, TokenLogprobs, TopLogprob, Usage
from dragoman.core.limits import (
    check_detokenized,
    check_resume_token_ids,
    check_token_ids,
    kept_tokens,
    resume_past_end,
)
from dragoman.core.models import TokenizedPrompt
from dragoman.core.request import ChatPrompt, GenerationRequest, Prompt, SamplingParams, TextPrompt, TokenPrompt
from dragoman.engines.base import AdapterHost, EngineStatistics
from dragoman.engines.fingerprint import fingerprint
from dragoman.output.bad_words import BadWords, bad_word_tokens
from dragoman.output.markup import ToolFormatName
from dragoman.output.processor import OutputProcessor
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
from dragoman.prompt.tool_formats import FORMATS

END = 256
"""The only token that is not a byte."""

VOCABULARY_SIZE = 257


_PIECES = (*(bytes((byte,)) for byte in range(END)), b"")


class ByteVocabulary:
    """Implements output.processor.DetokenizerVocabulary: token t below 256 is the byte t."""

    end_token_ids = frozenset({END})
    # Functions of C, which are called for each token.
    piece = staticmethod(_PIECES.__getitem__)
    is_special = staticmethod(end_token_ids.__contains__)


_MISSING: frozenset[Capability] = frozenset(
    (
        *("json_object", "json_schema", "regex", "grammar"),
        *("chat_template", "template_arguments", "tool_choice", "allowed_tools", "images", "verbosity"),
    )
)
"""What repeating cannot do."""


class EchoEngine:
    """Implements engines.base.Engine inside the HTTP worker itself."""

    capabilities = ALL_CAPABILITIES - _MISSING
    adapters: AdapterHost | None = None
    supports_reasoning = False
    failure: str | None = None

    def __init__(
        self,
        *,
        tokens_per_second: float = 0.0,
        context_length: int = 8192,
        tool_format: ToolFormatName = "generic",
    ) -> None:
        """Generate `tokens_per_second` for each choice; 0: as fast as the event loop runs.

        `tool_format` is the markup of calls in the repeated text.
        """
        self._seconds_per_token = 1 / tokens_per_second if tokens_per_second else 0.0
        self._vocabulary = ByteVocabulary()
        self._running = 0
        self._started = False
        self.context_length = context_length
        self.tool_format = tool_format
        self.fingerprint: str | None = fingerprint("echo", __version__, tokens_per_second, context_length, tool_format)

    async def start(self) -> None:
        self._started = True

    async def close(self) -> None:
        self._started = False

    @property
    def ready(self) -> bool:
        return self._started

    async def statistics(self) -> EngineStatistics:
        return EngineStatistics(running=self._running, waiting=0, kv_cells_used=0, kv_cells_cached=0, kv_cells_total=0)

    async def count_tokens(self, prompt: Prompt) -> int:
        return len(_prompt_and_answer(prompt, self.context_length)[0])

    async def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        tokens, _ = _prompt_and_answer(prompt, self.context_length)
        self._check_length(len(tokens))
        return TokenizedPrompt(tuple(tokens), tuple(map(chr, tokens)))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        check_detokenized("tokens", token_ids, VOCABULARY_SIZE, self.context_length)
        return b"".join(map(self._vocabulary.piece, token_ids)).decode(errors="replace")

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        prompt, echoed = _prompt_and_answer(request.prompt, self.context_length)
        limit = self._limit(len(prompt), request.sampling)
        if request.sampling.allowed_token_ids is not None:
            check_token_ids("allowed_token_ids", request.sampling.allowed_token_ids, VOCABULARY_SIZE)
        answers = [self._choice(request, echoed, limit, index) for index in range(request.n)]
        opening = _prompt_events(request, prompt)
        if request.resume_token_ids:
            opening += _replayed_events(request, answers)
        unfinished = [answer for answer in answers if not answer.finished]
        self._running += len(unfinished)
        try:
            yield Started(len(prompt), cached_tokens=0)
            for event in opening:
                yield event
            while unfinished:
                await asyncio.sleep(self._seconds_per_token)  # even for 0 seconds, so that other tasks run
                for answer in unfinished[:]:
                    for event in answer.step():
                        yield event
                    if answer.finished:
                        unfinished.remove(answer)
                        self._running -= 1
            yield Usage(len(prompt), sum(answer.output.tokens for answer in answers), 0)
        finally:
            self._running -= len(unfinished)

    def _choice(self, request: GenerationRequest, echoed: bytes, limit: int, index: int) -> "_EchoedChoice":
        parser = None
        if isinstance(request.prompt, ChatPrompt) and request.prompt.tools is not None:
            # The repeated text may call tools.
            parser = build_parser(
                OutputParserSpec(self.tool_format, in_channels=FORMATS[self.tool_format].markup.in_channels)
            )
        output = OutputProcessor(self._vocabulary, request.sampling, limit, index=index, parser=parser)
        return _EchoedChoice(echoed, output, index, request)

    def _check_length(self, prompt_tokens: int) -> None:
        if prompt_tokens >= self.context_length:
            raise ContextOverflow(
                prompt_tokens, self.context_length, "Shorten the prompt, or raise context_length in [echo]."
            )

    def _limit(self, prompt_tokens: int, sampling: SamplingParams) -> int:
        self._check_length(prompt_tokens)
        available_tokens = self.context_length - prompt_tokens
        return available_tokens if sampling.max_tokens is None else min(sampling.max_tokens, available_tokens)


class _EchoedChoice:
    """One choice: the answer's bytes, then END, without forbidden ones, repeated until the choice ends."""

    def __init__(self, answer: bytes, output: OutputProcessor, index: int, request: GenerationRequest) -> None:
        self.output = output
        self.finished = False
        self._tokens: tuple[int, ...] = (*answer, END)
        if (allowed := request.sampling.allowed_token_ids) is not None:
            self._tokens = tuple(token for token in self._tokens if token in allowed)
        self._index = index
        self._logprobs = request.logprobs
        self._shows_prompt_only = request.sampling.max_tokens == 0
        self._repeated = itertools.cycle(self._tokens)
        words = request.sampling.bad_words
        self._bad_words = BadWords(bad_word_tokens(words, lambda text: tuple(text.encode()))) if words else None

    def replay(self, resume_token_ids: Sequence[int]) -> list[Event]:
        """Accept the tokens of an earlier attempt. Raises BadRequest if the choice ends before the last one."""
        events: list[Event] = []
        for token in resume_token_ids:
            if self.finished:
                raise resume_past_end(self._index, len(resume_token_ids), self.output.tokens)
            self._next_token()
            events += self._accept(token)
        return events

    def step(self) -> Sequence[Event]:
        if self._shows_prompt_only:
            self.finished = True
            return [Finished(self._index, "length")]
        return self._accept(self._next_token())

    def _next_token(self) -> int:
        """Return the next token that is allowed. Raises BadRequest if there is none."""
        for token in itertools.islice(self._repeated, len(self._tokens)):
            if self._bad_words is None or token not in self._bad_words.barred():
                return token
        raise BadRequest("The echo engine only repeats; nothing of it is allowed", "allowed_token_ids")

    def _accept(self, token: int) -> Sequence[Event]:
        if self._bad_words is not None:
            self._bad_words.record(token)
        logprobs = None
        if self._logprobs is not None and token != END:
            logprobs = _certain_logprobs(token, self._logprobs)
        deltas, reason = self.output.accept(token, logprobs)
        if reason is None:
            return deltas
        self.finished = True
        return [*deltas, Finished(self._index, reason, self.output.stop_reason)]


def _prompt_and_answer(given: Prompt, context_length: int) -> tuple[bytes, bytes]:
    """Return the tokens of the prompt and of the answer. A truncated raw prompt is answered with what remains of it."""
    kept = slice(None) if given.truncation is None else kept_tokens(given.truncation, context_length)
    match given:
        case ChatPrompt(messages=messages):
            text = "\n".join(f"{message.role}: {message.text}" for message in messages)
            return text.encode()[kept], messages[-1].text.encode()
        case TextPrompt(text):
            prompt = text.encode()
        case TokenPrompt(token_ids):
            check_token_ids("prompt", token_ids, VOCABULARY_SIZE)
            prompt = bytes(token for token in token_ids if token != END)
    if not prompt:
        raise BadRequest("The prompt is empty: there is nothing to continue", "prompt")
    return prompt[kept], prompt[kept]


def _certain_logprobs(token: int, top: int) -> TokenLogprobs:
    """Return logprob 0 for a byte of text, and for itself as the only candidate if `top` is not 0."""
    piece = bytes((token,))
    return TokenLogprobs(token, piece, 0.0, [TopLogprob(token, piece, 0.0)] if top else [])


def _prompt_events(request: GenerationRequest, prompt: bytes) -> list[Event]:
    """Return the prompt as the request wants it before each choice."""
    events: list[Event] = []
    if request.reports_prompt or request.prompt_logprobs is not None:
        logprobs = _prompt_logprobs(prompt, request.prompt_logprobs, rank=1)
        events += (PromptTokens(index, list(prompt), logprobs) for index in range(request.n))
    if request.echo:
        logprobs = _prompt_logprobs(prompt, request.logprobs)
        events += (Delta(index, prompt.decode(errors="replace"), [], logprobs) for index in range(request.n))
    return events


def _replayed_events(request: GenerationRequest, answers: Sequence[_EchoedChoice]) -> list[Event]:
    """Return the events of an earlier attempt."""
    check_resume_token_ids(
        request.resume_token_ids,
        n=request.n,
        has_logprobs=request.logprobs is not None or request.prompt_logprobs is not None,
        vocabulary_size=VOCABULARY_SIZE,
    )
    resumed = zip(answers, request.resume_token_ids, strict=False)
    return [event for answer, token_ids in resumed for event in answer.replay(token_ids)]


def _prompt_logprobs(prompt: bytes, top: int | None, rank: int | None = None) -> list[TokenLogprobs]:
    """Return the log-probabilities of a prompt's bytes. The first has none, since nothing precedes it."""
    if top is None:
        return []
    [first, *rest] = prompt
    certain = (msgspec.structs.replace(_certain_logprobs(token, top), rank=rank) for token in rest)
    return [TokenLogprobs(first, bytes((first,)), None, []), *certain]
