"""Texts that must not be seen, such as the keys of upstreams."""


class SecretText:
    """A text that no representation shows: not in logs, errors, tracebacks or settings that are printed."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, to send it to whom it is for."""
        return self._text

    def __repr__(self) -> str:
        return "SecretText(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretText) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")
