"""Counts of prompt tokens: by the upstream's own routes, or estimated."""

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

from dragoman.core.errors import BadRequest
from dragoman.core.events import Delta, Event, ReasoningDelta, ToolCallDelta, Usage
from dragoman.core.models import TokenizedPrompt
from dragoman.core.request import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamRequest
from dragoman.engines.upstream.kinds import UpstreamKind
from dragoman.engines.upstream.replies import decode_reply
from dragoman.engines.upstream.request_body import Body, chat_fields

BYTES_PER_TOKEN = 3
"""Of a text in an estimate. English has some four, other languages and code have fewer."""

MESSAGE_TOKENS = 8
"""Of a message's markup in an estimate."""

IMAGE_TOKENS = 1024
"""Of an image in an estimate."""

_Reply = TypeVar("_Reply", bound=msgspec.Struct)


class _Tokenized(msgspec.Struct):
    tokens: list[int]
    token_strs: list[str] | None = None


class _RenderedPrompt(msgspec.Struct):
    prompt: str


class KnownTokens(Protocol):
    """What a tokenizer of this machine knows. Implemented by local_tokenizer.LocalTokenizer."""

    @property
    def renders_conversations(self) -> bool:
        """Whether the chat template is known."""
        ...

    async def tokenize(self, prompt: Prompt) -> list[int] | None:
        """Return the prompt tokens; None: they are not known here. Raises BadRequest."""
        ...

    def show(self, token_ids: Sequence[int]) -> TokenizedPrompt:
        """Return the tokens with the text of each."""
        ...

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        ...


class UpstreamTokenizer:
    """Counts and converts the tokens of one upstream's model."""

    def __init__(
        self, client: UpstreamClient, kind: UpstreamKind | None, model: str, local: KnownTokens | None = None
    ) -> None:
        """`kind` None: not known yet. `local` is asked before the upstream."""
        self._client = client
        self._kind = kind
        self._model = model
        self._local = local

    @property
    def can_convert(self) -> bool:
        """Whether texts and tokens can be converted."""
        return self._local is not None or (self._kind is not None and "tokenize" in self._kind.capabilities)

    async def count(self, prompt: Prompt) -> int:
        """Return the number of prompt tokens: an estimate if the upstream does not convert text.

        Raises TransportError, and MsgspecError for a reply that is none.
        """
        if self._local is not None and (known := await self._local.tokenize(prompt)) is not None:
            return len(known)
        if self._kind is None or self._kind.tokenize is None or isinstance(prompt, TokenPrompt):
            return estimate_tokens(prompt)
        return len((await self._tokenize(prompt)).tokens)

    async def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        """Return the prompt tokens. Raises as `count` does, and BadRequest if nobody knows them."""
        if self._local is not None:
            if (known := await self._local.tokenize(prompt)) is not None:
                return self._local.show(known)
            if self._kind is None or self._kind.tokenize is None:
                raise BadRequest("The tokens of this prompt are not known here", "prompt")
        tokenized = await self._tokenize(prompt)
        texts = tokenized.token_strs or [""] * len(tokenized.tokens)
        return TokenizedPrompt(tuple(tokenized.tokens), tuple(texts))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens. Raises as `count` does."""
        if self._local is not None:
            return self._local.detokenize(token_ids)
        body = {"model": self._model, "tokens": list(token_ids)}
        return (await self._post("/detokenize", body, _RenderedPrompt)).prompt

    async def _tokenize(self, prompt: Prompt) -> _Tokenized:
        assert self._kind is not None, "can_convert"
        match prompt:
            case TokenPrompt():
                return _Tokenized(list(prompt.token_ids))
            case _ if self._kind.tokenize == "llama-server":
                return await self._tokenize_by_llama_server(prompt)
            case ChatPrompt():
                fields = chat_fields(prompt, self._kind)
            case TextPrompt():
                fields = {"prompt": prompt.text, "add_special_tokens": prompt.add_special_tokens}
        body = {"model": self._model, "return_token_strs": True, **fields}
        return await self._post("/tokenize", body, _Tokenized)

    async def _tokenize_by_llama_server(self, prompt: ChatPrompt | TextPrompt) -> _Tokenized:
        assert self._kind is not None, "llama-server"
        if isinstance(prompt, TextPrompt):
            text, adds_special_tokens = prompt.text, prompt.add_special_tokens
        else:
            rendered = await self._post("/apply-template", chat_fields(prompt, self._kind), _RenderedPrompt)
            text, adds_special_tokens = rendered.prompt, True
        body = {"content": text, "add_special": adds_special_tokens, "parse_special": True}
        return await self._post("/tokenize", body, _Tokenized)

    async def _post(self, path: str, body: Body, kind: type[_Reply]) -> _Reply:
        request = UpstreamRequest(path=path, body=msgspec.json.encode(body))
        return decode_reply(msgspec.json.Decoder(kind).decode, await self._client.fetch(request))


class WrittenTexts:
    """What an answer has written, to count its tokens if its upstream does not."""

    def __init__(self, tokenizer: KnownTokens) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[tuple[object, ...], list[str]] = {}
        """By choice and by what it is: text, reasoning, or a call."""

    def note(self, event: Event) -> None:
        """Keep the text of an event."""
        match event:
            case Delta(index=index, text=text) | ReasoningDelta(index=index, text=text):
                self._texts.setdefault((index, type(event)), []).append(text)
            case ToolCallDelta(index=index, call_index=call, name=name, arguments=arguments):
                self._texts.setdefault((index, call), []).append((name or "") + arguments)

    async def counted(self, prompt: Prompt, estimated: Usage) -> Usage:
        """Return the usage as the tokenizer counts it; `estimated` if it cannot count the prompt.

        The markup around reasoning and calls is not among the texts.
        """
        try:
            prompt_tokens = await self._tokenizer.tokenize(prompt)
        except BadRequest:  # The upstream's template takes what the one of this machine refuses.
            prompt_tokens = None
        if prompt_tokens is None:
            return estimated
        completion_tokens = 0
        for parts in self._texts.values():
            tokens = await self._tokenizer.tokenize(TextPrompt("".join(parts), add_special_tokens=False))
            completion_tokens += len(tokens or ())
        return Usage(len(prompt_tokens), completion_tokens, 0, source="counted")


def estimate_tokens(prompt: Prompt) -> int:
    """Estimate the tokens of a prompt, rather too many than too few. Those of token ids are exact."""
    match prompt:
        case TextPrompt(text=text):
            return _tokens_of(text)
        case TokenPrompt(token_ids=token_ids):
            return len(token_ids)
        case ChatPrompt(messages=messages, tools=tools):
            written = sum(
                MESSAGE_TOKENS
                + _tokens_of(message.text)
                + _tokens_of(message.reasoning or "")
                + sum(_tokens_of(call.name + call.arguments) for call in message.tool_calls)
                + IMAGE_TOKENS * len(message.images)
                for message in messages
            )
            return written if tools is None else written + _tokens_of(msgspec.json.encode(tools).decode())


def _tokens_of(text: str) -> int:
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)
