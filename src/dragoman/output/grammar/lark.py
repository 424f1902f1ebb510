"""Parts of grammars in llguidance's Lark, and the check that a grammar compiles within limits and allows some text.

Syntax: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

import functools
import json
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import gbnf_to_lark

from dragoman.core.errors import BadRequest
from dragoman.output.grammar.endless import surely_ends
from dragoman.output.grammar.keywords import Schema
from dragoman.output.grammar.pattern_syntax import UnportablePattern

PARSER_LIMITS: Final = LLParserLimits(initial_lexer_fuel=200_000, step_max_items=5_000, verbose_errors=False)
"""Limits of compiling and of a mask. Enforcing uses the same, so that a checked grammar is not rejected later.

A mask looks at every token that may be accepted next, so that accepting one, for which the engine waits, takes no more
items. Ambiguous grammars take time by the cube of what they have read: with 50,000 items half a second for each token,
with these 2 ms. Objects of 500 optional properties and terms of 400 operators have as many items as with 50,000.
"""

TOO_COMPLEX: Final = "it is too large or too complex"
"""What compile_error says about a grammar that exceeds the limits."""

_PANIC: Final = "it cannot be compiled; simplify its alternatives"
"""What it says about one that llguidance fails at."""

_JSON_STYLE = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    # Without "u": if \u0061 were allowed for "a", a property could appear twice.
    "json_allowed_escapes": 'nrbtf\\"',
}

Value = TypeVar("Value")

_MAX_CHARACTERS = 30_000
_MAX_RULES = 1_000
"""Limit of a client's grammar. The compiler recurses through rules and overflows its stack at some 2,000."""

_MAX_TERMINALS = 300
"""Terminals within each other that are too large together take llguidance time by the square of their number."""

_TERMINAL = re.compile(r"\b_*[A-Z]\w*(?=\s*(?:[.\[{]|\Z))")
"""The name of a terminal before the colon of its definition, and perhaps some that are only used there."""

NO_FORCING: Final = '\n%llguidance {"no_forcing": true}\n'
"""Look for no bytes that must come next: where no text ever ends (`r: /a+/ r`), they do not either. The last counts."""

_GBNF_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|.)", re.DOTALL)


ANY_TEXT: Final = "/(?s:.*)/"
"""Matches every text."""

SOME_TEXT: Final = r"/[^ \t\r\n](?s:.*)/"
"""Matches every text that does not begin with white space, and is not empty."""


def quoted(text: str) -> str:
    """Return the text as a literal."""
    return json.dumps(text, ensure_ascii=False)


def token_or_text(token: int | None, text: str) -> str:
    """Match a special token, or a text that the vocabulary has none for."""
    return quoted(text) if token is None else f"<[{token}]>"


def json_text(schema: Schema) -> str:
    """Match JSON that is valid under a schema of grammar.schema, in the only generated style: `{"a": [1, 2]}`."""
    members: dict[str, Any] = schema if isinstance(schema, dict) else {}
    return f"%json {json.dumps({'x-guidance': _JSON_STYLE, **members})}"


def regex(pattern: str) -> str:
    """Match a whole regular expression in the syntax of Rust's regex crate."""
    if not pattern:
        return quoted("")
    escaped = re.sub(
        r"\\.|/|\n", lambda match: {"/": r"\/", "\n": r"\n"}.get(match[0], match[0]), pattern, flags=re.DOTALL
    )
    return f"/{escaped}/"


def client_grammar(text: str, parameter: str) -> str:
    """Return a client's grammar in Lark, converted from GBNF if necessary. Raises BadRequest."""
    if len(text) > _MAX_CHARACTERS or len(re.findall("::=|:", text)) > _MAX_RULES:
        raise BadRequest(
            f"The grammar is too large: it may have {_MAX_CHARACTERS} characters and {_MAX_RULES} rules", parameter
        )
    if re.search(r"^\s*[\w-]+\s*::=", text, re.MULTILINE):
        try:
            text = gbnf_to_lark(_GBNF_ESCAPE.sub(_plain_escape, text))
        except Exception as error:  # the converter raises nothing more specific
            raise BadRequest(f"The grammar is no GBNF: {error}", parameter) from error
    elif re.search(r"%(json|lark)\b", text):
        raise BadRequest(
            "The grammar may not have %json or %lark in it; a JSON schema has a format of its own", parameter
        )
    terminals = {name for before_colon in text.split(":")[:-1] for name in _TERMINAL.findall(before_colon)}
    if len(terminals) > _MAX_TERMINALS:
        raise BadRequest(f"The grammar is too large: it may have {_MAX_TERMINALS} terminals", parameter)
    if not surely_ends(text):
        text += NO_FORCING
    # A matcher reports what llguidance panics at. The other function would raise it, as what is no Exception.
    problem = compile_error(text)
    if _PANIC not in problem and _asks_for_tokens(text):
        raise BadRequest("The grammar may not ask for tokens in <...>, only for text", parameter)
    if problem:
        raise BadRequest(f"The grammar cannot be enforced: {problem}", parameter)
    return text


def _asks_for_tokens(grammar: str) -> bool:
    try:
        _, messages = LLMatcher.validate_grammar_with_warnings(grammar, None, limits=PARSER_LIMITS)
    except ValueError:  # compile_error reports the same problem as an error of the grammar
        return False
    return any(message.startswith("no tokenizer") for message in messages)


def _plain_escape(match: re.Match[str]) -> str:
    """Replace an escaped code point by its character, since gbnf_to_lark converts it wrongly. Keep other escapes."""
    code = match[1] or match[2]
    if not code:
        return match[0]
    character = chr(min(int(code, 16), 0x10FFFF))
    return character if character.isalnum() or ord(character) > 0x7F else f"\\x{ord(character):02x}"


def compile_error(grammar: str) -> str:
    """Return why the grammar does not compile within PARSER_LIMITS or allows no text; empty if it is valid."""
    try:
        grammar.encode()
    except UnicodeEncodeError:
        return "it has half a surrogate pair in it"
    matcher = LLMatcher(_byte_tokenizer(), grammar, log_level=0, limits=PARSER_LIMITS)
    if matcher.is_error():
        return _readable_error(matcher.get_error())
    for _ in range(2):  # a lexer that exceeds its limits does so within two steps
        allowed = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        if matcher.is_error():
            return "it allows nothing" if "NoExtension" in matcher.get_error() else TOO_COMPLEX
        following = np.flatnonzero(allowed[: _ByteVocabulary.eos_token_id])
        if not following.size:
            break
        matcher.consume_token(int(following[0]))
    return ""


def matching_texts(pattern: str, texts: Iterable[str]) -> list[str]:
    """Return the texts in which a pattern of grammar.pattern is found, in linear time whatever the pattern.

    Never returns texts with control characters, which are not generated in JSON. Raises UnportablePattern for a pattern
    that exceeds PARSER_LIMITS.
    """
    rule = json_text({"type": "string", "pattern": pattern})
    problem = compile_error(f"start: {rule}")
    if problem and not re.search("nothing fits|allows nothing", problem):
        raise UnportablePattern(problem)
    return fitting_values(rule, texts)


def fitting_values(rule: str, values: Iterable[Value]) -> list[Value]:
    """Return the values whose JSON matches a rule of json_text, with properties in its order."""
    matcher = LLMatcher(_byte_tokenizer(), f"start: {rule}", log_level=0, limits=PARSER_LIMITS)
    documents = ((value, [*_json_document(value).encode(), _ByteVocabulary.eos_token_id]) for value in values)
    return [value for value, tokens in documents if matcher.validate_tokens(tokens) == len(tokens)]


def _json_document(value: object) -> str:
    """Write a constant as llguidance does: no number has an exponent."""
    match value:
        case list():
            return f"[{', '.join(map(_json_document, value))}]"
        case dict():
            members = (f"{_json_document(name)}: {_json_document(member)}" for name, member in value.items())
            return f"{{{', '.join(members)}}}"
        case float():
            return format(Decimal(repr(value)), "f")
    return json.dumps(value, ensure_ascii=False)


def _readable_error(message: str) -> str:
    """Remove the position from an error of llguidance, since the client does not know the text that it refers to."""
    if re.search("too (big|large|many|complex|deeply)|fuel|recursion limit|stack level|Unable to determine", message):
        return TOO_COMPLEX
    if message.startswith("panic: "):
        return _PANIC
    if parse_error := re.search("^error: (.*)", message, re.MULTILINE):
        return parse_error[1]
    if contradiction := re.search("Unsatisfiable schema: (.*)", message):
        return "nothing fits it" if "Regex" in contradiction[1] else f"nothing fits it: {contradiction[1]}"
    return re.sub(r"^(at )?[0-9]+\([0-9]+\): (failed to compile JSON schema: )?", "", message).partition("\n")[0]


class _ByteVocabulary:
    """A vocabulary of the 256 bytes and a token that ends the text."""

    tokens: Sequence[bytes] = [*(bytes([byte]) for byte in range(256)), b"<end>"]
    eos_token_id = 256
    bos_token_id = None
    special_token_ids: Sequence[int] = [256]

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@functools.cache
def _byte_tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_ByteVocabulary()), n_vocab=257, eos_token=256, slices=[])
