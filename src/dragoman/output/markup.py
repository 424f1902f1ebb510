"""The markup of tool calls in answers, as a family of chat templates writes it."""

from typing import Literal

import msgspec

ToolFormatName = Literal["hermes", "llama3", "mistral", "generic"]


class ToolCallMarkup(msgspec.Struct, frozen=True, kw_only=True):
    """The text around the arguments of calls.

    section_open (call_open head ARGUMENTS tail call_close) separator (...) section_close
    """

    trigger: str
    """Text that only begins calls; the grammar enforces a call after it."""
    only_at_start: bool = False
    """Whether an answer has either calls or text, so that the trigger counts only at its beginning."""
    section_open: str = ""
    call_open: str = ""
    head_before_name: str = '{"name": "'
    head_after_name: str = '", "arguments": '
    tail: str = "}"
    call_close: str = ""
    separator: str = ""
    section_close: str = ""
    special_tokens: tuple[str, ...] = ()
    """Parts of the markup that are special tokens if the model's vocabulary has them."""

    def head(self, name: str) -> str:
        """Return the text before the arguments of a call."""
        return f"{self.head_before_name}{name}{self.head_after_name}"
