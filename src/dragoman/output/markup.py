"""The markup of tool calls in answers, as a family of chat templates writes it."""

import re
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from dragoman.output.element_syntax import ElementSyntax
from dragoman.output.value_syntax import ValueSyntax

ToolFormatName = Literal[
    "hermes",
    "exaone4",
    "llama3",
    "mistral",
    "mistral_args",
    "mistral_call_id",
    "deepseek_v3",
    "deepseek_v31",
    "kimi_k2",
    "kimi_k3",
    "command_r",
    "command_r7b",
    "granite",
    "nemotron",
    "tool_calls_list",
    "tool_calls_lines",
    "apertus",
    "phi4_mini",
    "functools",
    "functionary_v31",
    "functionary_v32",
    "granite_20b",
    "internlm2",
    "gigachat",
    "gigachat3",
    "minicpm5",
    "solar",
    "xlam",
    "harmony",
    "qwen3_coder",
    "seed_oss",
    "glm4",
    "glm45",
    "glm47",
    "ling3",
    "minimax_m2",
    "minimax_m3",
    "muse_glimmer",
    "hunyuan3",
    "deepseek_v32",
    "deepseek_v4",
    "lfm2",
    "pythonic",
    "gemma3",
    "gemma4",
    "functiongemma",
    "generic",
]

INDEX: Final = "{index}"
"""In a markup, the number of a call in its answer, from 0 on."""

ID: Final = "{id}"
"""In a markup, the id of a call, which the model chooses."""

NAME: Final = "{name}"
"""In `ToolCallMarkup.head_after_name`, the function's name once more."""

TYPE: Final = "{type}"
"""In `ParameterMarkup.after_name_of_json`, the type of the value."""

PLACEHOLDERS: Final = {
    INDEX: "[0-9]{1,4}",
    ID: "[A-Za-z0-9_-]{1,64}",
    NAME: r"[\w.:/-]{1,128}",
    TYPE: "[a-z]{1,16}",
}
"""Variable parts of a markup → the regular expression of what may stand for them."""

JSON_TYPES: Final = "number|boolean|null|object|array"
"""The regular expression of what is generated for TYPE."""

_PLACEHOLDER = re.compile(f"({'|'.join(map(re.escape, PLACEHOLDERS))})")


class ParameterMarkup(msgspec.Struct, frozen=True, kw_only=True):
    """The text around the arguments of a call that are not one JSON value, but a tagged value for each parameter.

    (before_name NAME after_name padding VALUE padding close after_close) (...)

    A string stands as it is, without `close` in it, or within `wrapper`. Other values are JSON.
    """

    before_name: str
    after_name: str
    after_name_of_json: str | None = None
    """What follows the name if the value is JSON; None: the same. TYPE may stand in it."""
    padding: str = ""
    """Text on both sides of a value which does not belong to it."""
    close: str
    after_close: str = "\n"
    wrapper: tuple[str, str] | None = None
    """Texts directly before and after strings with one of `wrapped_characters`; None: there are none."""
    wrapped_characters: frozenset[str] = frozenset("<&\n")

    def string(self, text: str) -> str:
        """Write a string, in its wrapper if it needs one."""
        if self.wrapper is None or self.wrapped_characters.isdisjoint(text):
            return text
        return text.join(self.wrapper)

    def head(self, name: str, *, is_string: bool) -> str:
        """Return the text before a value."""
        is_marked = not is_string and self.after_name_of_json is not None
        return f"{self.before_name}{name}{self.after_name_of_json if is_marked else self.after_name}{self.padding}"

    @property
    def name_pattern(self) -> str:
        """The regular expression of names that can be written."""
        ends = "".join(re.escape(text[0]) for text in (self.after_name, self.after_name_of_json or "<"))
        return rf"[^\r\n<{ends}]{{1,256}}"


class ToolCallMarkup(msgspec.Struct, frozen=True, kw_only=True):
    """The text around the arguments of calls.

    section_open (call_open head ARGUMENTS tail call_close) separator (...) section_close

    INDEX and ID may stand before and after the name, and NAME after it. With `parameters`, `values` or `elements`,
    `tail` is not empty.
    """

    trigger: str
    """Text that only begins calls; the grammar enforces a call after it."""
    only_at_start: bool = False
    """Whether an answer has either calls or text, so that the trigger counts only at its beginning."""
    text_cannot_begin_with: str = ""
    """Regular expression of the beginnings of calls, if texts may begin with the trigger. Empty: the trigger."""
    trigger_has_name: bool = False
    """Whether texts may have the trigger in them unless the name of one of the request's functions, and all of
    `head_after_name`, follow it."""
    reserved_names: tuple[str, ...] = ()
    """Names that a function cannot have, since they mean something else in answers."""
    optional_prefix: str = ""
    """Special token that may stand before the first call, if an answer has either calls or text."""
    section_open: str = ""
    call_open: str = ""
    head_before_name: str = '{"name": "'
    head_after_name: str = '", "arguments": '
    parameters: ParameterMarkup | None = None
    """How each argument is tagged; None: they are not."""
    values: ValueSyntax | None = None
    """How the arguments are written that are not tagged; None: as one JSON value."""
    elements: ElementSyntax | None = None
    """How arguments are elements that are named after them; None: they are not."""
    tail: str = "}"
    call_close: str = ""
    separator: str = ""
    section_close: str = ""
    first_index: int = 0
    """The INDEX of the first call."""
    id_pattern: str = PLACEHOLDERS[ID]
    """Regular expression of the ids that the model writes."""
    special_tokens: tuple[str, ...] = ()
    """Parts of the markup that are special tokens if the model's vocabulary has them."""
    in_channels: bool = False
    """Whether answers have channels (output.channel_parser). Then one call ends an answer."""
    one_call: bool = False
    """Whether an answer has no more than one call, whatever the request allows."""

    def head(self, name: str) -> str:
        """Return the text before the arguments of a call, with INDEX and ID as they are."""
        return f"{self.head_before_name}{name}{self.head_after_name.replace(NAME, name)}"


def split_at_placeholders(text: str) -> Iterator[str]:
    """Return the placeholders and the texts between them, in order, without empty ones."""
    return filter(None, _PLACEHOLDER.split(text))
