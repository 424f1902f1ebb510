"""Validation and generation of texts under a grammar, byte by byte and without a model."""

import functools
import json
from collections.abc import Sequence
from decimal import Decimal, localcontext
from random import Random
from typing import Any, NamedTuple

import numpy as np
from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from dragoman.output.grammar import PARSER_LIMITS

END = 256
_SPECIAL_TEXTS = (
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "｜DSML｜"),
    *("<|tool_call_start|>", "<|tool_call_end|>", "<|tool_call>", "<tool_call|>", '<|"|>'),
    *("<|open|>", "<|sep|>", "<|close|>", "<|eom|>", "<|begin|>", "<|content|>"),
    "]<]minimax[>[",
)
SPECIAL = {text: END + number for number, text in enumerate(_SPECIAL_TEXTS, 1)}
"""Special tokens of the vocabulary, as some families of models have them."""

OTHER = END + len(SPECIAL) + 1
"""A control token that no markup has, such as one that begins reasoning."""

_CLOSING = frozenset(b'"}]')


class SpecialByteVocabulary:
    """The 256 bytes, a token that ends the text, and a few special tokens."""

    tokens: Sequence[bytes] = [*(bytes([byte]) for byte in range(256)), b"<end>", *map(str.encode, SPECIAL), b"<other>"]
    eos_token_id = END
    bos_token_id = None
    special_token_ids: Sequence[int] = [END, *SPECIAL.values(), OTHER]

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@functools.cache
def tokenizer() -> LLTokenizer:
    """Return one tokenizer for the whole test run."""
    vocabulary = SpecialByteVocabulary()
    return LLTokenizer(TokenizerWrapper(vocabulary), n_vocab=len(vocabulary.tokens), eos_token=END, slices=[])


def matcher(grammar: str) -> LLMatcher:
    """Create a matcher with the limits of an engine."""
    created = LLMatcher(tokenizer(), grammar, log_level=0, limits=PARSER_LIMITS)
    assert not created.is_error(), created.get_error()
    return created


def tokens_of(text: str) -> list[int]:
    """Tokenize into special tokens and bytes."""
    tokens: list[int] = []
    while text:
        name = next((name for name in SPECIAL if text.startswith(name)), None)
        tokens += list(text[0].encode()) if name is None else [SPECIAL[name]]
        text = text[1:] if name is None else text[len(name) :]
    return tokens


def allows(grammar: str, text: str | list[int]) -> bool:
    """Whether the grammar allows exactly this text, tokenized into bytes, or these tokens."""
    tokens = list(text.encode()) if isinstance(text, str) else text
    reader = matcher(grammar)
    return reader.validate_tokens(tokens) == len(tokens) and reader.consume_tokens(tokens) and reader.is_accepting()


def generate(grammar: str, random: Random, length: int = 300, prefix: Sequence[int] = ()) -> str | None:
    """Generate a random text of the grammar after `prefix`; None if it does not end within `length` tokens.

    The second half prefers tokens that end the text. Raises AssertionError if the grammar leads to a dead end.
    """
    generator = matcher(grammar)
    tokens = list(prefix)
    assert generator.consume_tokens(tokens)
    while len(tokens) < length:
        allowed = _allowed_by(generator.compute_bitmask())
        assert allowed.ends or allowed.tokens, f"a dead end after {tokens}: {generator.get_error()}"
        finishing = len(tokens) > length / 2
        if allowed.ends and (not allowed.tokens or random.random() < (1 if finishing else 0.3)):
            return b"".join(SpecialByteVocabulary.tokens[token] for token in tokens).decode()
        tokens.append(_choose(allowed, random, finishing))
        assert generator.consume_token(tokens[-1])
    return None


class _Allowed(NamedTuple):
    """The tokens that may come next."""

    tokens: Sequence[int]
    plain: Sequence[int]
    closing: Sequence[int]
    ends: bool


@functools.lru_cache(2_000)
def _allowed_by(mask: bytes) -> _Allowed:
    """Decode a bit mask. A grammar has few, which come again and again."""
    allowed: list[int] = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")).tolist()
    tokens = [token for token in allowed if token != END]
    return _Allowed(
        tokens,
        [token for token in tokens if 0x20 <= token < 0x7F],
        [token for token in tokens if token in _CLOSING],
        END in allowed,
    )


def _choose(allowed: _Allowed, random: Random, finishing: bool) -> int:
    if allowed.closing and finishing:
        return allowed.closing[0]
    return random.choice(allowed.plain if allowed.plain and random.random() < 0.9 else allowed.tokens)


def validation_errors(text: str, schema: Any, draft: type[Validator] = Draft202012Validator) -> list[str]:
    """Return jsonschema's errors for a text, computed in decimals: as a double, 0.99… with 20 digits would be 1."""
    with localcontext(prec=2_000):
        return [error.message for error in draft(_exact(json.dumps(schema))).iter_errors(_exact(text))]


def _exact(text: str) -> Any:
    """Decode JSON with exact numbers, unless their exponent has more than four characters."""
    return json.loads(
        text, parse_float=lambda number: Decimal(number) if len(number.lower().partition("e")[2]) < 5 else float(number)
    )
