"""How much a model reasons before it answers, controlled by template variables and the end of the prompt."""

from typing import Any

from dragoman.core.request import ReasoningEffort
from dragoman.output.reasoning_parser import ReasoningSpec
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
"""Tokens the reasoning may have; None: as many as the answer may."""


def source_supports_reasoning(source: str) -> bool:
    """Whether a template is for reasoning models: those write or remove the reasoning of earlier answers."""
    return CLOSING in source


def effort_variables(source: str, effort: ReasoningEffort | None) -> dict[str, Any]:
    """Return the variables that set the amount of reasoning, as far as the template uses them."""
    if effort is None:
        return {}
    values = {"enable_thinking": effort != "none", "reasoning_effort": "low" if effort == "none" else effort}
    return {name: value for name, value in values.items() if name in source}


def end_prompt(
    prompt: str, effort: ReasoningEffort | None, *, has_switch: bool, constrained: bool
) -> tuple[str, ReasoningSpec | None]:
    """End the prompt of a reasoning model according to the effort; return it and the reasoning to expect, if any.

    `has_switch`: a template variable already turned reasoning on or off. `constrained`: a grammar constrains the text
    after the reasoning, so the prompt must open the reasoning itself.
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
    return prompt, ReasoningSpec(OPENING, CLOSING, opened_by_prompt=opened_by_prompt, budget_tokens=BUDGETS[effort])
