"""What an engine says while it answers: one ordered stream of events per request.

For each choice: any number of `Delta`, then one `Finished`. After the last choice: one `Usage`. A request that
fails raises an error of core.errors instead and has no `Usage`.
"""

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length"]


class Delta(msgspec.Struct, frozen=True, array_like=True, tag="delta"):
    """New text of one choice. `text` holds whole characters and may be empty; `token_ids` are the tokens sampled."""

    index: int
    text: str
    token_ids: list[int]


class Finished(msgspec.Struct, frozen=True, array_like=True, tag="finished"):
    """The choice `index` is complete."""

    index: int
    reason: FinishReason


class Usage(msgspec.Struct, frozen=True, array_like=True, tag="usage"):
    """Tokens of the whole request. `prompt_tokens` counts the prompt once, whatever n is.

    `cached_tokens` of them were not computed for this request but shared with another one.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


Event = Delta | Finished | Usage
