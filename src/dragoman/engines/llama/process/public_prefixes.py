"""The beginnings of prompts that the operator lets all owners share, such as a common system prompt."""

import functools
from collections.abc import Iterator, Sequence
from datetime import date

from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, Message
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.batching.host_cache import common_prefix_length
from dragoman.engines.llama.native.model import Vocabulary
from dragoman.engines.llama.wire.options import EngineOptions
from dragoman.prompt.template import ChatTemplate

_CONTINUATIONS = ("", "a", "A", "1", " ", "\n", "\n\n", ".", "!", "é")
"""What may follow a text. The tokens that it has before all of them do not depend on what follows it."""


class PublicPrefixes:
    """The tokens of each text as a system message at the beginning of a conversation, and as the beginning of a prompt.

    The last token of a text is left out where another text after it would change it.
    """

    def __init__(self, texts: Sequence[str], vocabulary: Vocabulary, template: ChatTemplate) -> None:
        self._texts = texts
        self._vocabulary = vocabulary
        self._template = template
        self._day: date | None = None
        self._prefixes: list[TokenArray] = []

    def match(self, tokens: TokenArray) -> int:
        """Return the length of the longest of them that the prompt begins with, in full. 0: it begins with none."""
        if self._day != date.today():  # Some templates write the date in front of the system message.
            self._day = date.today()
            self._prefixes = [prefix for text in self._texts for prefix in self._prefixes_of(text)]
        lengths = (len(prefix) for prefix in self._prefixes if common_prefix_length(tokens, prefix) == len(prefix))
        return max(lengths, default=0)

    def _prefixes_of(self, text: str) -> Iterator[TokenArray]:
        continued = [text + continuation for continuation in _CONTINUATIONS]
        yield _common_prefix([self._vocabulary.tokenize(one) for one in continued])
        try:
            yield _common_prefix([self._conversation(one) for one in continued])
        except BadRequest:
            return  # The template renders no conversation at all; each request is told so.

    def _conversation(self, system: str) -> TokenArray:
        messages = (Message(role="system", content=system), Message(role="user", content="a"))
        rendered = self._template.render(ChatPrompt(messages=messages))
        if rendered.literal_offsets:
            return self._vocabulary.tokenize_rendered(rendered.text, rendered.literal_offsets)
        return self._vocabulary.tokenize(rendered.text)


def public_prefixes(vocabulary: Vocabulary, chat_template: str | None, options: EngineOptions) -> PublicPrefixes | None:
    """Return the prefixes of the options' texts. None: the options have none."""
    if not options.shared_prefixes:
        return None
    template = ChatTemplate(
        chat_template,
        bos=vocabulary.bos_text,
        eos=vocabulary.eos_text,
        tool_format=options.tool_format,
        special_texts=vocabulary.control_tokens.texts,
    )
    return PublicPrefixes(options.shared_prefixes, vocabulary, template)


def _common_prefix(sequences: Sequence[TokenArray]) -> TokenArray:
    return functools.reduce(lambda left, right: left[: common_prefix_length(left, right)], sequences)
