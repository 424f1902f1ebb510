"""Keeps what people wrote from being parsed as control tokens.

A tokenizer turns the text of a control token, such as `<|im_end|>`, into the token wherever it finds it. Only those
that the chat template writes may end a turn or begin one. So before the template is rendered, one character of each
control token in a message, a tool or a template argument is replaced by a private-use character, which no control
token contains. After that, `Substitution.restore` puts the original characters back and returns where they are:
there, the engine's tokenizer recognizes no control token. One character for one keeps lengths, and a template may
trim, slice, change the case or encode as JSON as it likes.

A control token can also be joined from pieces. So a text that ends with the beginning of one is treated like one that
contains it, and so is a text that begins with the rest of one whose beginning stands in the template in front of a
quotation mark or a tag (`{{ '<' ~ name ~ '>' }}`).
"""

import functools
import json
import re
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, Message, ToolCall, ToolOptions

_PRIVATE_USE = ((0xE000, 0xF900), (0xF0000, 0xFFFFE), (0x100000, 0x10FFFE))
"""Unicode's ranges without characters of their own. Ends are exclusive."""

_JSON_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")

_BOUNDARY = re.compile(r"\s*(?:['\"]|\{[{%#]|\Z)")
"""What follows the text in front of an expression in a template's source."""

_SEARCHED_CHARACTERS = 64 * 1024
"""Searched at once."""

Replace = Callable[[str, frozenset[str]], str]
"""Replaces a text, except for these control tokens in it."""


def match_longest(texts: Iterable[str]) -> str:
    """Return a regular expression for the longest of these texts at a position: a trie, which rarely backtracks."""
    root: dict[str, Any] = {}
    for text in texts:
        node = root
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}
    return _trie_pattern(root)


def _trie_pattern(node: dict[str, Any]) -> str:
    branches = []
    for character, child in node.items():
        if not character:
            continue
        chain = re.escape(character)
        while len(child) == 1 and "" not in child:
            ((character, child),) = child.items()
            chain += re.escape(character)
        branches.append(chain + _trie_pattern(child))
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)}){'?' if '' in node else ''}"


class Substitution:
    """The private-use characters that stand for others."""

    def __init__(self, alphabet: str, substitutes: str) -> None:
        """Let each of the `substitutes` stand for the character of `alphabet` at the same place."""
        self.substitutes = dict(zip(alphabet, substitutes, strict=True))
        self._originals = {substitute: original for original, substitute in self.substitutes.items()}
        # A template may encode as JSON with ensure_ascii.
        self._originals |= {_json_escaped(new): _json_escaped(old) for old, new in self.substitutes.items()}
        self._pattern = re.compile(match_longest(self._originals))

    def apply(self, text: str, positions: Sequence[int]) -> str:
        """Replace the characters at these positions, which are in ascending order."""
        parts: list[str] = []
        end = 0
        for position in positions:
            parts += (text[end:position], self.substitutes[text[position]])
            end = position + 1
        return "".join([*parts, text[end:]])

    def restore(self, text: str) -> tuple[str, tuple[int, ...]]:
        """Return the text with the original characters, and their offsets in it."""
        parts: list[str] = []
        offsets: list[int] = []
        end = length = 0
        for match in self._pattern.finditer(text):
            original = self._originals[match[0]]
            parts += (text[end : match.start()], original)
            length += match.start() - end
            offsets.append(length)
            length += len(original)
            end = match.end()
        parts.append(text[end:])
        return "".join(parts), tuple(offsets)


_substitution = functools.lru_cache(16)(Substitution)


def _unused_substitution(alphabet: str, texts: Iterable[str]) -> Substitution:
    """Choose characters that do not occur in `texts`, written out or as JSON escapes. Raises BadRequest."""
    used: set[str] = set()
    for text in texts:
        if not text.isascii():
            used.update(text)
        used.update(chr(int(digits, 16)) for digits in _JSON_ESCAPE.findall(text))
    for first, end in _PRIVATE_USE:
        for start in range(first, end - len(alphabet), len(alphabet)):
            substitutes = "".join(map(chr, range(start, start + len(alphabet))))
            if used.isdisjoint(substitutes):
                return _substitution(alphabet, substitutes)
    raise BadRequest("The messages use too many private-use characters beside texts of control tokens")


def _json_escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


class EscapedPrompt(NamedTuple):
    """A prompt whose written texts hold no control tokens."""

    prompt: ChatPrompt
    substitution: Substitution | None
    """None: nothing was replaced."""

    def restore(self, text: str) -> tuple[str, tuple[int, ...]]:
        """Do what Substitution.restore does."""
        return (text, ()) if self.substitution is None else self.substitution.restore(text)


class SpecialTokenTexts(msgspec.Struct, frozen=True):
    """The texts that a model's tokenizer turns into tokens of their own."""

    control: tuple[str, ...] = ()
    """Of control tokens."""
    markup: tuple[str, ...] = ()
    """Of tokens that are markup where the chat template writes them, such as `<tool_call>`, and text elsewhere."""


NO_SPECIAL_TEXTS = SpecialTokenTexts()


class ControlTokenTexts:
    """The texts of a model's control tokens."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Leave out texts of white space, which people write for its own sake."""
        self.texts = tuple(dict.fromkeys(text for text in texts if text.strip()))
        self._first_characters = frozenset(case for text in self.texts for case in (text[0].lower(), text[0].upper()))
        self.first_bytes = tuple(character.encode() for character in sorted(self._first_characters))
        """Their beginnings in UTF-8. A text without one of them holds no control token."""

    def find_tails(self, source: str) -> tuple[str, ...]:
        """Return the rests of control tokens whose beginnings a template writes in front of an expression."""
        found: set[str] = set()
        for first in self._first_characters:
            start = source.find(first)
            while start >= 0:
                length = 1
                while start + length <= len(source) and (
                    sharing := self._longer_than(source[start : start + length].lower())
                ):
                    if _BOUNDARY.match(source, start + length):
                        found.update(self._sorted[index][length:] for index in sharing)
                    length += 1
                start = source.find(first, start + 1)
        return tuple(sorted(found))

    def escape(
        self, prompt: ChatPrompt, *, source: str, tails: tuple[str, ...], kept: frozenset[str] = frozenset()
    ) -> EscapedPrompt:
        """Replace a character of each control token in what people wrote.

        `source` is the template's, and `tails` what `find_tails` returned for it. `kept` are control tokens that
        stay as they are in an assistant's messages, since the template looks for them. Raises BadRequest.
        """
        texts = [source]
        found: dict[tuple[str, frozenset[str]], list[int]] = {}

        def look(text: str, kept: frozenset[str]) -> str:
            texts.append(text)
            if positions := self._positions(text, tails, kept):
                found[text, kept] = positions
            return text

        try:
            _replace_texts(prompt, look, kept)
            if not found:
                return EscapedPrompt(prompt, None)
            substitution = _unused_substitution("".join(sorted(self._alphabet)), texts)

            def replace(text: str, kept: frozenset[str]) -> str:
                return substitution.apply(text, found.get((text, kept), ()))

            return EscapedPrompt(_replace_texts(prompt, replace, kept), substitution)
        except RecursionError as error:
            raise BadRequest("The tools or the template's variables are nested too deeply") from error

    def _positions(self, text: str, tails: tuple[str, ...], kept: frozenset[str]) -> list[int]:
        """Return the characters to replace, in ascending order."""
        spans: list[tuple[int, int]] = []
        if any(first in text for first in self._first_characters):
            spans += [match.span() for match in self._matches(text) if match[0] not in kept]
            end = len(text.rstrip())
            for start in range(max(0, end - self._max_length), end):
                if text[start] in self._first_characters and self._longer_than(text[start:end].lower()):
                    spans.append((start, end))
        if tails and (span := self._span_in_front(text, tails)):
            spans.append(span)
        alphabet = self._alphabet
        replaceable = {
            start if text[start] in alphabet else next((at for at in range(start, end) if text[at] in alphabet), -1)
            for start, end in spans
        }
        return sorted(replaceable - {-1})

    def _matches(self, text: str) -> Iterator[re.Match[str]]:
        """Yield all control tokens in a text, those that begin within others included."""
        if not self._may_overlap:
            # A search does not let other threads run.
            for begin in range(0, len(text), _SEARCHED_CHARACTERS):
                end = begin + _SEARCHED_CHARACTERS
                for match in self._pattern.finditer(text, begin, end + self._max_length - 1):
                    if match.start() < end:
                        yield match
            return
        found = self._pattern.search(text)
        while found is not None:
            yield found
            found = self._pattern.search(text, found.start() + 1)

    def _span_in_front(self, text: str, tails: tuple[str, ...]) -> tuple[int, int] | None:
        """Return where the text begins with the rest of a control token, or is a part of it."""
        start = len(text) - len(text.lstrip())
        end = min(len(text.rstrip()), start + self._max_length)
        beginning = text[start:end].lower()
        if not beginning:
            return None
        index = bisect_left(tails, beginning)
        is_part = index < len(tails) and tails[index].startswith(beginning)
        has_rest = any(_is_in(tails, beginning[:length]) for length in range(1, len(beginning) + 1))
        return (start, end) if is_part or has_rest else None

    def _longer_than(self, beginning: str) -> range:
        """Return the texts in `_sorted` that begin with this one and are longer."""
        start = bisect_left(self._sorted, beginning)
        end = bisect_left(self._sorted, beginning + chr(sys.maxunicode))
        while start < end and self._sorted[start] == beginning:
            start += 1
        return range(start, end)

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Matches a control token in any case, which a template may change."""
        return re.compile(match_longest(self.texts), re.IGNORECASE)

    @functools.cached_property
    def _may_overlap(self) -> bool:
        return any(first in text[1:] for first in self._first_characters for text in self.texts)

    @functools.cached_property
    def _max_length(self) -> int:
        return max(map(len, self.texts))

    @functools.cached_property
    def _sorted(self) -> list[str]:
        """All texts in lower case."""
        return sorted(text.lower() for text in self.texts)

    @functools.cached_property
    def _alphabet(self) -> frozenset[str]:
        """The characters that may be replaced: those that JSON writes without a backslash."""
        characters = {case for text in self.texts for case in text + text.lower() + text.upper()}
        return frozenset(case for case in characters if case.isprintable() and case not in '"\\')


def _is_in(texts: tuple[str, ...], text: str) -> bool:
    index = bisect_left(texts, text)
    return index < len(texts) and texts[index] == text


def _replace_texts(prompt: ChatPrompt, replace: Replace, kept: frozenset[str]) -> ChatPrompt:
    """Return the prompt with all texts that people wrote replaced."""

    def written(text: str) -> str:
        return replace(text, frozenset())

    return msgspec.structs.replace(
        prompt,
        messages=tuple(_replace_message(message, replace, kept) for message in prompt.messages),
        tools=None if prompt.tools is None else _replace_tools(prompt.tools, written),
        template_arguments={name: _replace_nested(value, written) for name, value in prompt.template_arguments.items()},
        documents=tuple(_replace_nested(document, written) for document in prompt.documents),
    )


def _replace_message(message: Message, replace: Replace, kept: frozenset[str]) -> Message:
    kept = kept if message.role == "assistant" else frozenset()

    def written(text: str) -> str:
        return replace(text, frozenset())

    return msgspec.structs.replace(
        message,
        content=replace(message.text, kept),
        name=None if message.name is None else written(message.name),
        tool_calls=tuple(
            ToolCall(written(call.id), written(call.name), _replace_json(call.arguments, written))
            for call in message.tool_calls
        ),
        tool_call_id=None if message.tool_call_id is None else written(message.tool_call_id),
        reasoning=None if message.reasoning is None else replace(message.reasoning, kept),
    )


def _replace_tools(options: ToolOptions, written: Callable[[str], str]) -> ToolOptions:
    tools = tuple(
        msgspec.structs.replace(
            tool,
            name=written(tool.name),
            description=None if tool.description is None else written(tool.description),
            parameters=_replace_nested(tool.parameters, written),
        )
        for tool in options.tools
    )
    return msgspec.structs.replace(options, tools=tools)


def _replace_nested(value: Any, written: Callable[[str], str]) -> Any:
    """Replace the texts in a JSON value, and the names of its members."""
    if isinstance(value, str):
        return written(value)
    if isinstance(value, dict):
        return {written(name): _replace_nested(member, written) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nested(member, written) for member in value]
    return value


def _replace_json(text: str, written: Callable[[str], str]) -> str:
    """Replace the texts in JSON that is not decoded yet, where escapes and quotation marks may hide what they are."""
    replaced = written(text)
    try:
        value = json.loads(text)
        members = _replace_nested(value, written)
        is_same = members == value or members == json.loads(replaced)
    except (ValueError, RecursionError):
        return replaced
    return replaced if is_same else json.dumps(members, ensure_ascii=False)
