"""Reads the text of a custom tool's call from the pieces of its arguments, `{"input": "…"}`."""

import json

_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class JsonStringReader:
    """Returns the value of the only member of a JSON object, piece by piece, as far as its text is complete."""

    def __init__(self) -> None:
        self._quotes = 0
        """Quotation marks seen so far: the value is between the third and the fourth."""
        self._escape = ""
        """An escape sequence that is not complete yet."""
        self._high_surrogate = ""

    def feed(self, piece: str) -> str:
        """Return what the next piece adds to the text."""
        return "".join(map(self._read, piece))

    def _read(self, character: str) -> str:
        if self._escape:
            return self._read_escape(character)
        if character == '"':
            self._quotes += 1
            return ""
        if self._quotes not in (1, 3):
            return ""
        if character == "\\":
            self._escape = character
            return ""
        return character if self._quotes == 3 else ""

    def _read_escape(self, character: str) -> str:
        self._escape += character
        if self._escape[1] == "u" and len(self._escape) < 6:
            return ""
        escape, self._escape = self._escape, ""
        if self._quotes != 3:
            return ""
        if escape[1] != "u":
            return _ESCAPES.get(escape[1], escape[1])
        if self._high_surrogate:
            pair, self._high_surrogate = self._high_surrogate + escape, ""
            return _decoded(pair)
        if 0xD800 <= int(escape[2:], 16) < 0xDC00:
            self._high_surrogate = escape
            return ""
        return _decoded(escape)


def _decoded(escapes: str) -> str:
    """Return the text of escapes of code units, with U+FFFD for half a pair."""
    text: str = json.loads(f'"{escapes}"')
    return text.encode(errors="surrogatepass").decode(errors="replace")
