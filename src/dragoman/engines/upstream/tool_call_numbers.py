"""Which tool call a piece of a stream belongs to.

OpenAI numbers the calls of a choice and names each of them once. Others give all calls the index 0 (Ollama, Gemini) or
none, begin elsewhere, leave out ids, or repeat the name, with a new id, in every piece (old versions of vLLM).
"""

import secrets

import msgspec


class _KnownCall:
    """A call so far."""

    def __init__(self, number: int, call_id: str, name: str) -> None:
        self.number = number
        self.id = call_id
        self.name = name
        self._arguments: list[str] = []

    def add(self, arguments: str) -> None:
        if arguments:
            self._arguments.append(arguments)

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are complete."""
        try:
            msgspec.json.decode("".join(self._arguments))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return False
        return True


class NumberedPiece(msgspec.Struct, frozen=True):
    """Where a piece belongs. Only the first one of a call has the call's id and name."""

    number: int
    id: str | None = None
    name: str | None = None


class ToolCallNumbers:
    """Numbers the calls of one choice from 0 on, and gives an id to each that has none."""

    def __init__(self) -> None:
        self._calls: dict[int, _KnownCall] = {}
        """By the upstream's index: the last one that had it."""
        self._count = 0

    def number(self, index: int, call_id: str | None, name: str | None, arguments: str) -> NumberedPiece:
        """Return where the next piece belongs."""
        call = self._calls.get(index)
        if call is None or _begins_another(call, call_id or "", name or ""):
            call = _KnownCall(self._count, call_id or "", name or "")
            self._calls[index] = call
            self._count += 1
            piece = NumberedPiece(call.number, call.id or f"call_{secrets.token_hex(12)}", name or None)
        else:
            piece = NumberedPiece(call.number, name=None if call.name else name or None)
            call.name = call.name or name or ""
        call.add(arguments)
        return piece


def _begins_another(call: _KnownCall, call_id: str, name: str) -> bool:
    """Whether a piece with the index of a call begins another one."""
    if not name or call_id == call.id != "":
        return False
    return (bool(call_id) and name != call.name != "") or call.is_whole
