"""How a family of chat templates writes tool calls into the text of an answer."""

from typing import Literal

import msgspec

ToolFormatName = Literal["hermes", "llama3", "mistral", "generic"]


class ToolCallMarkup(msgspec.Struct, frozen=True, kw_only=True):
    """The text around the arguments of calls.

    section_open (call_open head ARGUMENTS tail call_close) separator (...) section_close
    """

    trigger: str
    """Text that begins a call and nothing else; calls are enforced from it on."""
    only_at_start: bool = False
    """Whether an answer holds either calls or text, so that the trigger counts only at its beginning."""
    section_open: str = ""
    call_open: str = ""
    head_before_name: str = '{"name": "'
    head_after_name: str = '", "arguments": '
    tail: str = "}"
    call_close: str = ""
    separator: str = ""
    section_close: str = ""
    special_tokens: tuple[str, ...] = ()
    """Parts of this text that are special tokens of the models of this family, where their vocabulary has them."""

    def head(self, name: str) -> str:
        """What stands before the arguments of a call."""
        return f"{self.head_before_name}{name}{self.head_after_name}"
