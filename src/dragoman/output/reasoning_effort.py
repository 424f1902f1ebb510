"""Models that think before they answer: whether they are to, and how much."""

from typing import Any

import msgspec

from dragoman.core.request import ReasoningEffort
from dragoman.output.scanning import WHITESPACE

OPENING = "<think>"
CLOSING = "</think>"

BUDGETS: dict[ReasoningEffort | None, int | None] = {
    None: None,
    "minimal": 128,
    "low": 1024,
    "medium": 4096,
    "high": None,
}
"""Tokens a thought may have; None: as many as the answer may."""


class ReasoningSpec(msgspec.Struct, frozen=True):
    """The answer may begin with a thought."""

    opening: str
    closing: str
    opened_by_prompt: bool
    """Whether the prompt ends inside the thought, so that the model does not write `opening`."""
    budget_tokens: int | None
    """Tokens the thought may have; None: no limit."""


def supports_reasoning(source: str) -> bool:
    """Whether a template is that of thinking models: it has to write, or leave out, the thoughts of earlier answers."""
    return CLOSING in source


def effort_variables(source: str, effort: ReasoningEffort | None) -> dict[str, Any]:
    """The variables by which a template is told how much is to be thought, of those that it knows."""
    if effort is None:
        return {}
    values = {"enable_thinking": effort != "none", "reasoning_effort": "low" if effort == "none" else effort}
    return {name: value for name, value in values.items() if name in source}


def end_prompt(
    prompt: str, effort: ReasoningEffort | None, *, has_switch: bool, constrained: bool
) -> tuple[str, ReasoningSpec | None]:
    """The prompt of a thinking model, ended so that it thinks as it is to; and the thought to expect, if any.

    `has_switch`: the template was told by a variable whether to think. `constrained`: a grammar binds what comes after
    the thought, so that the prompt must begin one.
    """
    end = prompt.rstrip(WHITESPACE)
    if end.endswith(CLOSING):
        return prompt, None
    opened_by_prompt = end.endswith(OPENING)
    if effort == "none":
        if opened_by_prompt:
            return f"{end}\n\n{CLOSING}\n\n", None
        return (prompt if has_switch else f"{prompt}{OPENING}\n\n{CLOSING}\n\n"), None
    if constrained and not opened_by_prompt:
        prompt, opened_by_prompt = f"{prompt}{OPENING}\n", True
    return prompt, ReasoningSpec(OPENING, CLOSING, opened_by_prompt, BUDGETS[effort])
