"""Grammars of texts, as grammars of the same texts inside of JSON strings.

Escaping replaces each character by itself or by its escape, so it can be applied to every literal and every regular
expression of a Lark grammar. llguidance does the same for strings in JSON schemas, but its Lark has no word for it.
"""

import json
import re
from collections.abc import Callable, Iterator

from dragoman.core.errors import BadRequest
from dragoman.output.grammar.lark import NO_FORCING, client_grammar, quoted, regex

_ESCAPES = {'"': r"\"", "\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
"""Characters that are escaped in JSON, and how. Other control characters cannot be written."""

_PLAIN = r"[^\x22\x5c\x00-\x1f]"
"""Matches the characters that stand for themselves in JSON."""

_TOKEN = re.compile(
    r"""(?P<comment>(?:\#|//)[^\n]*)
    | (?P<string>"(?:\\.|[^"\\])*") (?P<flag>i?)
    | (?P<regex>/(?:\\.|[^/\\\n])+/) (?P<flags>[imslux]*)""",
    re.DOTALL | re.VERBOSE,
)
_IMPORT = re.compile(r"^[ \t]*%import[ \t]+common\.(\w+)[ \t]*$", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*[?!]*([A-Za-z_]\w*)[ \t]*(\[[^\]]*\])?[ \t]*:(.*(?:\n[ \t]*(?:\|.*)?)*)", re.MULTILINE)
"""The definition of a rule: its name, its attributes and its body."""

_OTHER_STATEMENT = re.compile(r"%(?!import\b|ignore\b)\w+|@\w+|<[^<>\s]+>")

_IMPORTS = {
    "LF": r"/\n/",
    "CR": r"/\r/",
    "NEWLINE": r"/(\r?\n)+/",
    "WS": r"/[ \t\f\r\n]+/",
    "WS_INLINE": r"/[ \t]+/",
    "ESCAPED_STRING": r'/"([^"\\]|\\.)*"/',
    "DIGIT": "/[0-9]/",
    "HEXDIGIT": "/[0-9a-fA-F]/",
    "INT": "/[0-9]+/",
    "SIGNED_INT": "/[+-]?[0-9]+/",
    "LETTER": "/[a-zA-Z]/",
    "WORD": "/[a-zA-Z]+/",
    "CNAME": "/[_a-zA-Z][_a-zA-Z0-9]*/",
}
"""Terminals of Lark's library, with their definitions."""

_CLASS = re.compile(r"\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|x\{[0-9A-Fa-f]+\}|u[0-9A-Fa-f]{4}|[pP]\{[^}]*\}|[pP]\w|.)", re.DOTALL)
_ANCHORS = ("\\b", "\\B", "\\A", "\\z", "\\Z", "\\<", "\\>", "^", "$")


class _CannotQuote(Exception):
    """The grammar has a construct whose escaped form is not known."""


def json_quoted_regex(pattern: str, parameter: str) -> str:
    """Return a Lark grammar of the texts that match, inside of a JSON string. Raises BadRequest."""
    return _checked(lambda: f"start: {regex(_quote_regex(pattern, ''))}", parameter)


def json_quoted_grammar(text: str, parameter: str) -> str:
    """Return a Lark grammar of a grammar's texts, inside of a JSON string. Raises BadRequest."""
    grammar = client_grammar(text, parameter).removesuffix(NO_FORCING)
    return _checked(lambda: _quote_grammar(grammar), parameter)


def _checked(build: Callable[[], str], parameter: str) -> str:
    try:
        return client_grammar(build(), parameter)
    except _CannotQuote as error:
        raise BadRequest(f"The grammar cannot be enforced inside of a call: {error}", parameter) from None


def _quote_grammar(grammar: str) -> str:
    names: list[str] = []

    def imported(match: re.Match[str]) -> str:
        names.append(match[1])
        return ""

    rest = _IMPORT.sub(imported, grammar)
    without_texts = _TOKEN.sub("", rest)
    if found := _OTHER_STATEMENT.search(without_texts):
        raise _CannotQuote(f"{found[0]} is not supported there")
    if "%import" in without_texts or any(name not in _IMPORTS for name in names):
        raise _CannotQuote("only common terminals can be imported there: " + ", ".join(sorted(_IMPORTS)))
    if re.search(r'"\s*\.\.', rest):
        raise _CannotQuote("ranges of literals are not supported there, only those of regular expressions")
    definitions = [f"{name}: {_IMPORTS[name]}" for name in names]
    return _TOKEN.sub(_quote_token, _as_terminals("\n".join([rest, *definitions, ""])))


def _as_terminals(grammar: str) -> str:
    """Make a terminal of each rule that is not recursive.

    A lexeme ends where its expression cannot go on, and the first character of an escape does not say where that is:
    after `/.+/`, a backslash may begin a quotation mark or the line's end. Inside of one terminal it need not be known.
    """
    plain = re.sub(r"->\s*\w+", "", _outside_texts(grammar))
    bodies = {match[1]: match[3] for match in _RULE.finditer(plain) if not match[2]}
    if "%ignore" in plain:
        return grammar  # It applies between terminals.
    uses = {name: {use for use in re.findall(r"[A-Za-z_]\w*", body) if use in bodies} for name, body in bodies.items()}
    terminals: set[str] = set()
    while found := {name for name in bodies if name not in terminals and uses[name] <= terminals}:
        terminals |= found
    lines = _map_outside_texts(
        grammar,
        lambda text: re.sub(
            r"[?!]*\b[a-z_]\w*\b(?!\s*\[)",
            lambda match: _terminal_name(match[0], terminals),
            re.sub(r"->\s*\w+", "", text),
        ),
    )
    return f"start: {_terminal_name('start', terminals)}\n{lines}" if "start" in terminals else lines


def _terminal_name(name: str, terminals: set[str]) -> str:
    bare = name.lstrip("?!")
    return f"RULE_{bare.upper()}" if bare in terminals and bare == bare.lower() else name


def _outside_texts(grammar: str) -> str:
    """Return the grammar with empty strings for its texts and expressions."""
    return _TOKEN.sub('""', grammar)


def _map_outside_texts(grammar: str, change: Callable[[str], str]) -> str:
    """Change all of a grammar but its texts and expressions."""
    parts: list[str] = []
    position = 0
    for match in _TOKEN.finditer(grammar):
        parts += [change(grammar[position : match.start()]), match[0]]
        position = match.end()
    return "".join([*parts, change(grammar[position:])])


def _quote_token(match: re.Match[str]) -> str:
    if match["string"]:
        text = json.loads(re.sub(r"\\x([0-9A-Fa-f]{2})", r"\\u00\1", match["string"]))
        escaped = "".join(map(_escaped, text))
        if match["flag"] and escaped != text:
            raise _CannotQuote("a literal with the flag i may hold no characters that JSON escapes")
        return quoted(escaped) + match["flag"]
    if match["regex"]:
        return f"{regex(_quote_regex(match['regex'][1:-1].replace(chr(92) + '/', '/'), match['flags']))}"
    return ""


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character < " ":
        raise _CannotQuote("JSON's short escapes have no such control character")
    return character


def _quote_regex(pattern: str, flags: str) -> str:
    if set(flags) - {"s"}:
        raise _CannotQuote(f"the flags '{flags}' of a regular expression are not supported there")
    return "".join(_quoted_atoms(pattern, dot_all="s" in flags))


def _quoted_atoms(pattern: str, *, dot_all: bool) -> Iterator[str]:
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "[":
            match = _CLASS.match(pattern, position)
            if match is None or "&&" in match[0] or "[" in match[0][1:]:
                raise _CannotQuote("a class of characters in it is too complex")
            yield _quoted_class(match[0])
            position = match.end()
        elif character == "\\":
            match = _ESCAPE.match(pattern, position)
            if match is None or match[0] in _ANCHORS:
                raise _CannotQuote(f"{pattern[position : position + 2]} is not supported there")
            yield _quoted_class(f"[{match[0]}]")
            position = match.end()
        elif character in "^$":
            raise _CannotQuote(f"{character} is not supported there, where the whole text matches anyway")
        elif pattern.startswith("(?", position) and not pattern.startswith("(?:", position):
            raise _CannotQuote("groups with flags, names or conditions are not supported there")
        elif character == ".":
            yield _quoted_class(r"[\s\S]" if dot_all else r"[^\n]")
            position += 1
        elif character in _ESCAPES:
            yield _quoted_class(f"[{_ESCAPES.get(character, character)}]")
            position += 1
        elif character == "{":
            end = pattern.find("}", position)
            yield pattern[position : end + 1] if end > 0 else r"\{"
            position = end + 1 if end > 0 else position + 1
        else:
            yield character
            position += 1


def _quoted_class(members: str) -> str:
    """Return what matches the characters of a class as JSON has them."""
    try:
        compiled = re.compile(members)
    except re.error:
        if not re.fullmatch(r"\[\^?\\[pP].*\]", members):
            raise _CannotQuote("a class of characters in it is too complex") from None
        compiled = re.compile(r"(?!)" if members[1] != "^" and members[2] == "p" else r"[\s\S]")
    escapes = [escape for character, escape in _ESCAPES.items() if compiled.fullmatch(character)]
    alternatives = [f"[{members}&&{_PLAIN}]", *(re.escape(escape) for escape in escapes)]
    return f"(?:{'|'.join(alternatives)})"
