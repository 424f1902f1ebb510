"""The preprocessor: from a worker's command to a request of the batcher, with tokens, limits and a constraint."""

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
import numpy as np

from dragoman.core.errors import BadRequest, ContextOverflow
from dragoman.core.limits import check_detokenized, check_resume_token_ids, check_token_ids, kept_tokens
from dragoman.core.models import TokenizedPrompt
from dragoman.core.request import AnswerFormat, PromptTruncation, TextPrompt, TokenPrompt, ToolOptions
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.batching.sequence import (
    PLAIN_OUTPUT,
    EngineRequest,
    PromptImage,
    RequestKey,
    TokenizedOutputFormat,
)
from dragoman.engines.llama.native.model import Model, Vocabulary
from dragoman.engines.llama.process.image_tokenizer import ImageTokenizer
from dragoman.engines.llama.process.public_prefixes import PublicPrefixes
from dragoman.engines.llama.wire.messages import EnginePrompt, GenerateCommand, ImagePrompt, RenderedTextPrompt
from dragoman.output.bad_words import bad_word_tokens
from dragoman.output.constraint import GRAMMAR_CACHE_SIZE, GrammarCompiler, GrammarConstraint
from dragoman.output.grammar import BuiltGrammar, build_grammar
from dragoman.output.markup import ToolFormatName
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.output.text_element import TextElement
from dragoman.output.tool_call_parser import ArgumentTypes, ToolCallMode
from dragoman.prompt.output_parser import OutputParserSpec, build_parser

Result = TypeVar("Result")

_NO_GRAMMAR = BuiltGrammar(None)
_MAX_TRUNCATED_CONTEXTS = 16
"""A prompt that is to be truncated is tokenized as a whole. It is refused if it would fill the context this often."""


class TokenizerThread:
    """The thread of a tokenizer. Owners share its time, jobs come last. Its methods are called on the event loop.

    This is start-time fair queueing, as of prompt tokens: whoever has taken the least time of the thread while others
    waited is next.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "tokenizer")
        self._waiting: dict[tuple[bool, str], deque[tuple[Callable[[], bool], asyncio.Future[bool]]]] = {}
        """Whether it is a job, and the owner → what waits, in its order, and whether it is still wanted."""
        self._is_busy = False
        self._virtual_time = 0.0
        self._finish_tags: dict[str, float] = {}

    async def run(
        self, owner: str, work: Callable[[], Result], is_wanted: Callable[[], bool], *, is_queued: bool = False
    ) -> Result | None:
        """Run the work on the thread when it is the owner's turn. None: by then it was not wanted any more."""
        loop = asyncio.get_running_loop()
        if self._is_busy:
            turn = loop.create_future()
            self._waiting.setdefault((is_queued, owner), deque()).append((is_wanted, turn))
            try:
                if not await turn:
                    return None
            except asyncio.CancelledError:
                if not turn.cancelled() and turn.result():  # The turn was given before the cancellation arrived.
                    self._pass_turn()
                raise
        self._is_busy = True
        started, self._virtual_time = time.perf_counter(), self._start_tag(owner)
        try:
            return await loop.run_in_executor(self._thread, work)
        finally:
            self._finish_tags[owner] = self._virtual_time + time.perf_counter() - started
            self._pass_turn()

    def _start_tag(self, owner: str) -> float:
        return max(self._virtual_time, self._finish_tags.get(owner, 0.0))

    def _pass_turn(self) -> None:
        while self._waiting:
            place = min(self._waiting, key=lambda place: (place[0], self._start_tag(place[1])))
            is_wanted, turn = self._waiting[place].popleft()
            if not self._waiting[place]:
                del self._waiting[place]
            if not turn.done():
                turn.set_result(is_wanted())
                if turn.result():
                    return
        self._is_busy = False
        self._finish_tags.clear()  # Nobody waits, so that nobody has taken time from others.


class PromptTokenizer:
    """Tokenizes the prompts of one model. Used by one thread of its own, since that is slow."""

    def __init__(self, model: Model, context_length: int, images: ImageTokenizer | None = None) -> None:
        """`context_length` bounds a prompt and its answer together. `images`: None if the model takes no images."""
        self._model = model
        self._images = images
        self.context_length = context_length

    def tokenize_prompt(self, prompt: EnginePrompt) -> tuple[TokenArray, str]:
        """Return the tokens of a prompt and its text. Raises BadRequest."""
        vocabulary = self._model.vocabulary
        match prompt:
            case TextPrompt(text, truncation, add_special_tokens):
                self._check_length(text, truncation)
                tokens = vocabulary.tokenize(text, add_special=add_special_tokens)
            case RenderedTextPrompt(text, literal_offsets, truncation):
                self._check_length(text, truncation)
                tokens = vocabulary.tokenize_rendered(text, literal_offsets)
            case ImagePrompt(text):
                self._check_length(text, None)
                return self.image_tokenizer.tokenize(prompt), text
            case TokenPrompt(token_ids, truncation):
                check_token_ids("prompt", token_ids, vocabulary.size)
                tokens = np.array(token_ids, dtype=np.int32)
                text = self._text(tokens)
        if truncation is not None:
            kept = tokens[kept_tokens(truncation, self.context_length)]
            if len(kept) < len(tokens):
                tokens, text = kept, self._text(kept)
        if not len(tokens):
            raise BadRequest("The prompt is empty: a model needs at least one token to go on from", "prompt")
        return tokens, text

    def prompt_tokens(self, prompt: EnginePrompt) -> TokenizedPrompt:
        """Return the tokens of a prompt for a client. Raises BadRequest."""
        if isinstance(prompt, ImagePrompt):
            raise BadRequest("Images have no tokens of the vocabulary; send the messages without them", "messages")
        token_ids = self.tokenize_prompt(prompt)[0].tolist()
        return TokenizedPrompt(tuple(token_ids), tuple(map(self._model.vocabulary.entry_text, token_ids)))

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of these tokens. Raises BadRequest naming `tokens`."""
        check_detokenized("tokens", token_ids, self._model.vocabulary.size, self.context_length)
        return self._text(np.array(token_ids, dtype=np.int32))

    @property
    def image_tokenizer(self) -> ImageTokenizer:
        """What tokenizes images. Raises BadRequest if the model takes none."""
        if self._images is None:
            raise BadRequest("The model takes no images; it is served without a projector file (mmproj)", "messages")
        return self._images

    def _check_length(self, text: str, truncation: PromptTruncation | None) -> None:
        """Reject a text that certainly does not fit, without tokenizing it."""
        longest = self.context_length * (1 if truncation is None else _MAX_TRUNCATED_CONTEXTS)
        if (min_tokens := self._model.vocabulary.min_token_count(text)) >= longest:
            raise self.overflow(min_tokens, at_least=True)

    def _text(self, tokens: TokenArray) -> str:
        return b"".join(map(self._model.vocabulary.piece, tokens.tolist())).decode(errors="replace")

    def overflow(self, prompt_tokens: int, *, at_least: bool = False) -> ContextOverflow:
        """Make the error about a prompt that does not fit."""
        trained = self._model.trained_context_length
        advice = "Shorten the prompt; the model was trained for no longer one."
        if self.context_length < trained:
            advice = (
                "Shorten the prompt, or start the server with a larger --kv-cache-tokens "
                f"(now {self.context_length}; the model was trained for {trained} tokens)."
            )
        return ContextOverflow(prompt_tokens, self.context_length, advice, at_least=at_least)


class _ConstraintSpec(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What the grammar of a request depends on."""

    response_format: AnswerFormat | None
    tools: ToolOptions | None
    tool_format: ToolFormatName | None
    in_channels: bool
    element: TextElement | None
    reasoning: str
    """What the model writes at the beginning of its reasoning; empty: nothing."""
    owner: str
    """Of the request. The time of building a grammar must not reveal what another owner has sent."""


class RequestPreprocessor(PromptTokenizer):
    """Makes the requests of one model. Used by one thread of its own, since tokenizing and compiling are slow."""

    def __init__(
        self,
        model: Model,
        cells: int,
        public_prefixes: PublicPrefixes | None = None,
        images: ImageTokenizer | None = None,
    ) -> None:
        """`cells`: the number of KV cells, which bounds a prompt and its answer together.

        `public_prefixes` are shared by all owners. None: there are none. `images`: None if the model takes no images.
        """
        super().__init__(model, min(model.trained_context_length, cells), images)
        self._public_prefixes = public_prefixes
        self._cached_grammar = functools.lru_cache(GRAMMAR_CACHE_SIZE)(self._build_grammar)

    def preprocess(self, key: RequestKey, command: GenerateCommand) -> EngineRequest:
        """Tokenize and validate a worker's command. Raises BadRequest."""
        tokens, text = self.tokenize_prompt(command.prompt)
        available_tokens = self._available_tokens(len(tokens))
        self._check_token_ids(command)
        limit = (
            available_tokens
            if command.sampling.max_tokens is None
            else min(command.sampling.max_tokens, available_tokens)
        )
        constraint, grammar = self._constraint(command)
        return EngineRequest(
            key,
            tokens,
            command.sampling,
            limit,
            priority=command.priority,
            echo=text if command.echo else "",
            logprobs=command.logprobs,
            prompt_logprobs=command.prompt_logprobs,
            reports_prompt=command.reports_prompt,
            bad_words=bad_word_tokens(command.sampling.bad_words, self._model.vocabulary.tokenize_fragment)
            if command.sampling.bad_words
            else (),
            constraint=constraint,
            unenforced=grammar.unenforced,
            output_format=self._output_format(command.output_format, command.tools, grammar.strings),
            resume_token_ids=command.resume_token_ids,
            owner=command.owner,
            cache_salt=command.cache_salt,
            public_tokens=0 if self._public_prefixes is None else self._public_prefixes.match(tokens),
            images=self._encoded_images(command, tokens) if isinstance(command.prompt, ImagePrompt) else (),
        )

    def _encoded_images(self, command: GenerateCommand, tokens: TokenArray) -> Sequence[PromptImage]:
        """Compute the embeddings of the images in the prompt. Raises BadRequest."""
        assert isinstance(command.prompt, ImagePrompt)
        if command.reports_prompt or command.prompt_logprobs is not None:
            raise BadRequest("The tokens of a prompt with images cannot be reported", "messages")
        return self.image_tokenizer.encode(command.prompt, tokens, command.owner)

    def _available_tokens(self, prompt_tokens: int) -> int:
        available_tokens = self.context_length - prompt_tokens
        if available_tokens < 1:
            raise self.overflow(prompt_tokens)
        return available_tokens

    def _check_token_ids(self, command: GenerateCommand) -> None:
        size = self._model.vocabulary.size
        check_token_ids("stop_token_ids", command.sampling.stop_token_ids, size)
        check_token_ids("logit_bias", command.sampling.logit_bias, size)
        check_token_ids("allowed_token_ids", command.sampling.allowed_token_ids or (), size)
        has_logprobs = command.logprobs is not None or command.prompt_logprobs is not None
        check_resume_token_ids(command.resume_token_ids, n=command.n, has_logprobs=has_logprobs, vocabulary_size=size)

    def _constraint(self, command: GenerateCommand) -> tuple[GrammarConstraint | None, BuiltGrammar]:
        """Return the constraint of the answer and its grammar."""
        if command.response_format is None and command.tools is None:
            return None, _NO_GRAMMAR
        tool_format = command.output_format.tool_format
        output_format = command.output_format
        reasoning = output_format.reasoning
        spec = _ConstraintSpec(
            response_format=command.response_format,
            tools=command.tools,
            tool_format=tool_format,
            in_channels=output_format.in_channels,
            element=output_format.text_element,
            reasoning="" if reasoning is None or reasoning.opened_by_prompt else reasoning.opening,
            owner=command.owner,
        )
        grammar = self._cached_grammar(msgspec.msgpack.encode(spec))
        if grammar.text is None:
            return None, grammar
        parameter = "response_format" if command.tools is None else "tools"
        return self._compiler.compile(grammar.text, parameter, command.owner), grammar

    def _build_grammar(self, encoded: bytes) -> BuiltGrammar:
        """Build the grammar of a _ConstraintSpec, which is encoded since schemas cannot be hashed."""
        spec = msgspec.msgpack.decode(encoded, type=_ConstraintSpec)
        return build_grammar(
            spec.response_format,
            spec.tools,
            OutputParserSpec(spec.tool_format, in_channels=spec.in_channels).markup,
            self._model.vocabulary.special_token,
            self._control_tokens,
            element=spec.element,
            reasoning=spec.reasoning,
        )

    @functools.cached_property
    def _control_tokens(self) -> list[int]:
        """The special tokens that do not end an answer."""
        vocabulary = self._model.vocabulary
        return [
            token
            for token in range(vocabulary.size)
            if vocabulary.is_special(token) and token not in vocabulary.end_token_ids
        ]

    @functools.cached_property
    def _compiler(self) -> GrammarCompiler:
        return GrammarCompiler(self._model.vocabulary)

    def _output_format(
        self, output_format: OutputParserSpec, tools: ToolOptions | None, strings: ArgumentTypes | None
    ) -> TokenizedOutputFormat:
        if output_format == OutputParserSpec():
            return PLAIN_OUTPUT
        vocabulary = self._model.vocabulary
        reasoning = output_format.reasoning
        markup_texts = [] if output_format.markup is None else [*output_format.markup.special_tokens]
        text_markers = output_format.text_markers
        markup_texts += [] if text_markers is None else [text_markers.opening, text_markers.closing]
        markup_texts += [] if output_format.text_element is None else output_format.text_element.special_tokens
        markup_texts += [] if reasoning is None else [reasoning.opening, reasoning.closing, *reasoning.special_tokens]
        tokens = [vocabulary.special_token(text) for text in markup_texts]
        return TokenizedOutputFormat(
            functools.partial(build_parser, output_format, _tool_call_mode(tools), strings),
            frozenset(token for token in tokens if token is not None),
            *(() if reasoning is None else _reasoning_end(vocabulary, reasoning)),
        )


def _reasoning_end(
    vocabulary: Vocabulary, reasoning: ReasoningSpec
) -> tuple[int | None, tuple[int, ...], tuple[int, ...]]:
    """Return the budget, and the tokens of the marker that ends the reasoning and of what follows it."""
    closing = tuple(vocabulary.tokenize_fragment(reasoning.closing))
    end = tuple(vocabulary.tokenize_fragment(reasoning.closing + reasoning.after_closing))
    split = len(closing) if end[: len(closing)] == closing else len(end)
    return reasoning.budget_tokens, end[:split], end[split:]


def _tool_call_mode(tools: ToolOptions | None) -> ToolCallMode:
    """Return which part of the answer the grammar of these tools restricts to calls."""
    if tools is None:
        return "none"
    return "from trigger" if tools.choice == "auto" else "whole answer"
