"""The canonical request: what every dialect is translated into and every engine understands.

Absent and null are told apart only in a dialect's wire.py; here everything is decided.
"""

from typing import Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Role
    content: str
    name: str | None = None


class ChatPrompt(msgspec.Struct, frozen=True, tag="chat"):
    """A conversation, to be rendered with the model's chat template."""

    messages: tuple[Message, ...]


class TextPrompt(msgspec.Struct, frozen=True, tag="text"):
    """Text fed to the model as it stands. Special-token text in it becomes special tokens."""

    text: str


class TokenPrompt(msgspec.Struct, frozen=True, tag="tokens"):
    """Token ids fed to the model as they stand; no special tokens are added."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class SamplingParams(msgspec.Struct, frozen=True):
    """How tokens are chosen and when a choice ends; docs/sampling.md defines every field exactly.

    The defaults are the off values. Ranges are those of core.limits.
    """

    max_tokens: int | None = None
    """At most so many tokens a choice; None: the rest of the context. Always capped by the context."""
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    """Unsigned 64 bits; None: drawn from the operating system."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_text: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True


class GenerationRequest(msgspec.Struct, frozen=True):
    """One prompt and what to make of it: `n` independent choices."""

    model: str
    """The name the client asked for: a deployment or an alias of one."""
    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    n: int = 1
    echo: bool = False
    """Every choice begins with the text of the prompt."""
    priority: int = 0
    """Waiting requests are taken lowest number first, first come first served among equals."""
