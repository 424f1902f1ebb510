"""Reading and writing texts byte by byte under a grammar, without a model."""

import functools
import json
from collections.abc import Sequence
from decimal import Decimal, localcontext
from random import Random
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from dragoman.output.grammar import PARSER_LIMITS

END = 256
SPECIAL = {"<tool_call>": 257, "</tool_call>": 258, "[TOOL_CALLS]": 259}
"""Special tokens of the vocabulary, for families of models that have them."""

_CLOSING = frozenset(b'"}]')


class SpecialByteVocabulary:
    """The 256 bytes, a token that ends the text, and a few special ones."""

    tokens: Sequence[bytes] = [*(bytes([byte]) for byte in range(256)), b"<end>", *map(str.encode, SPECIAL)]
    eos_token_id = END
    bos_token_id = None
    special_token_ids: Sequence[int] = [END, *SPECIAL.values()]

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@functools.cache
def tokenizer() -> LLTokenizer:
    """One for the whole test run."""
    vocabulary = SpecialByteVocabulary()
    return LLTokenizer(TokenizerWrapper(vocabulary), n_vocab=len(vocabulary.tokens), eos_token=END, slices=[])


def matcher(grammar: str) -> LLMatcher:
    """A matcher as an engine has it."""
    found = LLMatcher(tokenizer(), grammar, log_level=0, limits=PARSER_LIMITS)
    assert not found.is_error(), found.get_error()
    return found


def tokens_of(text: str) -> list[int]:
    """Special tokens where the text has them, else bytes."""
    tokens: list[int] = []
    while text:
        name = next((name for name in SPECIAL if text.startswith(name)), None)
        tokens += list(text[0].encode()) if name is None else [SPECIAL[name]]
        text = text[1:] if name is None else text[len(name) :]
    return tokens


def allows(grammar: str, text: str | list[int]) -> bool:
    """Whether the grammar allows exactly this text, which is spelled in bytes, or these tokens."""
    tokens = list(text.encode()) if isinstance(text, str) else text
    reader = matcher(grammar)
    return reader.validate_tokens(tokens) == len(tokens) and reader.consume_tokens(tokens) and reader.is_accepting()


def generate(grammar: str, random: Random, length: int = 300, prefix: Sequence[int] = ()) -> str | None:
    """A random text of the grammar that begins with the tokens of `begun`; None if `length` tokens were too few for it.

    From the half on it hurries to an end.

    Raises AssertionError where the grammar leads to a dead end.
    """
    generator = matcher(grammar)
    tokens = list(prefix)
    assert generator.consume_tokens(tokens)
    while len(tokens) < length:
        mask = np.frombuffer(generator.compute_bitmask(), np.uint8)
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist()
        assert allowed, f"a dead end after {tokens}: {generator.get_error()}"
        finishing = len(tokens) > length / 2
        if allowed == [END] or (END in allowed and random.random() < (1 if finishing else 0.3)):
            return b"".join(SpecialByteVocabulary.tokens[token] for token in tokens).decode()
        tokens.append(_choose([token for token in allowed if token != END], random, finishing))
        assert generator.consume_token(tokens[-1])
    return None


def _choose(allowed: list[int], random: Random, finishing: bool) -> int:
    closing = [token for token in allowed if token in _CLOSING]
    if closing and finishing:
        return closing[0]
    plain = [token for token in allowed if 0x20 <= token < 0x7F]
    return random.choice(plain if plain and random.random() < 0.9 else allowed)


def validation_errors(text: str, schema: Any, draft: type[Validator] = Draft202012Validator) -> list[str]:
    """What jsonschema has against a text, computed in decimals: as doubles, 0.99… with 20 digits would be 1."""
    with localcontext(prec=2_000):
        return [error.message for error in draft(_exact(json.dumps(schema))).iter_errors(_exact(text))]


def _exact(text: str) -> Any:
    """JSON with its numbers as they are written, unless they have an exponent in the thousands."""
    return json.loads(
        text, parse_float=lambda number: Decimal(number) if len(number.lower().partition("e")[2]) < 5 else float(number)
    )
