"""A tokenizer file of this machine, which counts and converts the tokens of an upstream that cannot do so itself.

It is Hugging Face's `tokenizer.json`. The chat template is in `chat_template.jinja` or in `tokenizer_config.json`
beside it.
"""

import asyncio
import functools
from collections.abc import Sequence
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from dragoman.core.models import TokenizedPrompt
from dragoman.core.request import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from dragoman.prompt.template import MAX_STEPS_IN_PLACE, ChatTemplate

TOKENIZER_FILE = "tokenizer.json"
TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"

MAX_CHARACTERS_IN_PLACE = 16_384
"""Longer texts are converted in a thread: the event loop would wait for more than some 5 ms."""


class TokenizerFileError(ValueError):
    """The file is no tokenizer that can be used. The message is for the operator."""


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


class _SpecialToken(msgspec.Struct):
    content: str


class _Config(msgspec.Struct):
    chat_template: str | list[_NamedTemplate] | None = None
    bos_token: str | _SpecialToken | None = None
    eos_token: str | _SpecialToken | None = None


class LocalTokenizer:
    """Counts and converts tokens."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        """`template` of None: conversations are not rendered."""
        self._tokenizer = tokenizer
        self._template = template

    @property
    def renders_conversations(self) -> bool:
        """Whether the chat template is known."""
        return self._template is not None

    async def tokenize(self, prompt: Prompt) -> list[int] | None:
        """Return the prompt tokens; None: they are not known here. Raises BadRequest for what the template refuses.

        Not known are those of images, of a request's own template and of a conversation without any template.
        """
        match prompt:
            case TokenPrompt(token_ids=token_ids):
                return list(token_ids)
            case TextPrompt(text=text, add_special_tokens=adds_special_tokens):
                return await self._encode(text, adds_special_tokens=adds_special_tokens)
            case ChatPrompt():
                if self._template is None or any(message.images for message in prompt.messages):
                    return None
                rendered = self._template.render_in_place(prompt)
                return None if rendered is None else await self._encode(rendered.text, adds_special_tokens=False)

    def show(self, token_ids: Sequence[int]) -> TokenizedPrompt:
        """Return the tokens with the text of each."""
        texts = tuple(self._tokenizer.decode([token_id], skip_special_tokens=False) for token_id in token_ids)
        return TokenizedPrompt(tuple(token_ids), texts)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)

    async def _encode(self, text: str, *, adds_special_tokens: bool) -> list[int]:
        encode = functools.partial(self._tokenizer.encode, text, add_special_tokens=adds_special_tokens)
        found = encode() if len(text) <= MAX_CHARACTERS_IN_PLACE else await asyncio.to_thread(encode)
        return found.ids


def read_tokenizer(path: Path) -> LocalTokenizer:
    """Read the tokenizer of this path: a `tokenizer.json`, or a folder with one. Raises TokenizerFileError."""
    file = path / TOKENIZER_FILE if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - the library raises nothing more specific
        raise TokenizerFileError(f"the tokenizer {file} cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return LocalTokenizer(tokenizer, _template(file.parent))


shared_tokenizer = functools.cache(read_tokenizer)
"""Reads a tokenizer of this process once, however many upstreams have it."""


def _template(folder: Path) -> ChatTemplate | None:
    try:
        config = msgspec.json.decode(_read(folder / CONFIG_FILE) or b"{}", type=_Config)
        source = (_read(folder / TEMPLATE_FILE) or b"").decode() or _default_template(config)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise TokenizerFileError(f"the chat template in {folder} cannot be read: {error}") from None
    if not source:
        return None
    bos, eos = _text(config.bos_token), _text(config.eos_token)
    return ChatTemplate(source, bos=bos, eos=eos, max_steps=MAX_STEPS_IN_PLACE)


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _default_template(config: _Config) -> str:
    if config.chat_template is None or isinstance(config.chat_template, str):
        return config.chat_template or ""
    return next((each.template for each in config.chat_template if each.name == "default"), "")


def _text(token: str | _SpecialToken | None) -> str:
    return token.content if isinstance(token, _SpecialToken) else token or ""
