"""Whether each rule of a client's grammar surely has a text: otherwise some of its texts never end."""

import re
from typing import Final

_LITERAL_OR_COMMENT: Final = re.compile(r'//[^\n]*|"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/')
_DEFINITION: Final = re.compile(r"^[ \t]*(\w+)[ \t]*:", re.MULTILINE)
_KNOWN: Final = re.compile(r"[\w\s|()\[\]?*+{},]*")
_NAME: Final = re.compile(r"[A-Za-z_]\w*")


def surely_ends(grammar: str) -> bool:
    """Whether every rule of a Lark grammar has a text. False also if the grammar has what this does not know."""
    _, *parts = _DEFINITION.split(_LITERAL_OR_COMMENT.sub(" ", grammar))
    bodies = dict(zip(parts[::2], parts[1::2], strict=True))
    if not all(map(_KNOWN.fullmatch, bodies.values())):
        return False
    names = {name: [set(_NAME.findall(each)) for each in _alternatives(body)] for name, body in bodies.items()}
    open_rules, ended = set(names), -1
    while len(open_rules) != ended:
        ended = len(open_rules)
        open_rules = {name for name in open_rules if all(each & open_rules for each in names[name])}
    return not open_rules


def _alternatives(body: str) -> list[str]:
    """Split a body at the bars outside of brackets. What is in brackets counts as needed."""
    depth, parts = 0, [""]
    for character in body:
        depth += (character in "([{") - (character in ")]}")
        if character == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts
