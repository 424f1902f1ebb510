"""How a chat template lets its model reason: the markers, the switches, and the end of the prompt."""

import re
from typing import Any, Final, NamedTuple

from dragoman.core.request import ReasoningEffort
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.output.scanning import WHITESPACE


class ReasoningMarkers(NamedTuple):
    """The texts around reasoning."""

    opening: str
    closing: str
    special_tokens: tuple[str, ...] = ()
    """Parts of them that are special tokens, where the whole markers are none."""
    after_opening: str = "\n"
    after_closing: str = "\n\n"


DEFAULT_MARKERS: Final = ReasoningMarkers("<think>", "</think>")

CHANNEL_MARKERS: Final = ReasoningMarkers(
    "<|channel|>analysis<|message|>",
    "<|end|>",
    ("<|start|>", "<|channel|>", "<|message|>", "<|end|>"),
    after_opening="",
    after_closing="<|start|>assistant",
)
"""Of gpt-oss, whose reasoning is a message in a channel of its own."""

_KNOWN_MARKERS: Final = (
    DEFAULT_MARKERS,
    ReasoningMarkers("[THINK]", "[/THINK]"),
    ReasoningMarkers("<seed:think>", "</seed:think>"),
    ReasoningMarkers("<mm:think>", "</mm:think>"),
    ReasoningMarkers("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningMarkers("<|inner_prefix|>", "<|inner_suffix|>"),
    ReasoningMarkers("<|channel>thought\n", "<channel|>", ("<|channel>", "<channel|>")),
)

REASONING_BUDGETS: Final[dict[ReasoningEffort | None, int | None]] = {
    None: None,
    "minimal": 128,
    "low": 1024,
    "medium": 4096,
    "high": None,
}
"""Tokens the reasoning may have; None: as many as the answer may."""

_TEMPLATE_BUDGETS: Final[dict[ReasoningEffort, int]] = {"none": 0, "minimal": 512, "low": 1024, "medium": 4096}
"""Values of `thinking_budget` for Seed-OSS, which was trained on a few of them; without it there is no limit."""

_THINKING_SWITCH: Final = re.compile(r"\bthinking is (?:not )?defined|\bnot thinking is defined")


class TemplateReasoning:
    """The reasoning of one template's model."""

    def __init__(self, source: str, *, is_supported: bool) -> None:
        """`is_supported`: the model can reason even if the template does not show it."""
        found = find_markers(source)
        self._source = source
        self._markers = found or DEFAULT_MARKERS
        self.is_supported = is_supported or found is not None
        """Whether the model may reason before it answers."""

    def variables(self, effort: ReasoningEffort | None) -> dict[str, Any]:
        """Return the variables that set the amount of reasoning, as far as the template uses them."""
        if effort is None:
            return {}
        values: dict[str, Any] = {
            "enable_thinking": effort != "none",
            "reasoning_effort": "low" if effort == "none" else effort,
        }
        used: dict[str, Any] = {name: value for name, value in values.items() if name in self._source}
        if _THINKING_SWITCH.search(self._source):
            used["thinking"] = effort != "none"
        if "thinking_budget" in self._source and effort in _TEMPLATE_BUDGETS:
            used["thinking_budget"] = _TEMPLATE_BUDGETS[effort]
        return used

    def spec(self, effort: ReasoningEffort | None, *, opened_by_prompt: bool) -> ReasoningSpec:
        """Return the reasoning to expect."""
        return ReasoningSpec(
            self._markers.opening,
            self._markers.closing,
            opened_by_prompt=opened_by_prompt,
            budget_tokens=None if effort == "none" else REASONING_BUDGETS[effort],
            special_tokens=self._markers.special_tokens,
            after_closing=self._markers.after_closing,
        )

    def end_prompt(
        self, prompt: str, effort: ReasoningEffort | None, *, constrained: bool
    ) -> tuple[str, ReasoningSpec | None]:
        """End the prompt according to the effort; return it and the reasoning to expect, if any.

        `constrained`: a grammar constrains the text after the reasoning, so the prompt must open the reasoning itself.
        """
        opening, closing = self._markers.opening, self._markers.closing
        after_opening, after_closing = self._markers.after_opening, self._markers.after_closing
        end = prompt.rstrip(WHITESPACE)
        if end.endswith(closing):
            return prompt, None
        opened_by_prompt = end.endswith(opening.rstrip(WHITESPACE))
        if effort == "none":
            if opened_by_prompt:
                return f"{end}{after_opening * 2}{closing}{after_closing}", None
            # A template that knows the switch needs no help.
            has_switch = bool(self.variables(effort).keys() - {"reasoning_effort"})
            return (
                prompt
                if has_switch
                else f"{prompt}{opening.rstrip(WHITESPACE)}{after_opening * 2}{closing}{after_closing}"
            ), None
        if constrained and not opened_by_prompt:
            prompt, opened_by_prompt = f"{prompt}{opening.rstrip(WHITESPACE)}{after_opening}", True
        return prompt, self.spec(effort, opened_by_prompt=opened_by_prompt)


def find_markers(source: str) -> ReasoningMarkers | None:
    """Return the markers of a template; None if it is for no reasoning model.

    Templates for reasoning models write or remove the reasoning of earlier answers.
    """
    if is_in_channels(source):
        return CHANNEL_MARKERS
    return next((markers for markers in _KNOWN_MARKERS if markers.closing in source), None)


def is_in_channels(source: str) -> bool:
    """Whether a template is gpt-oss's, whose messages have channels."""
    return "<|channel|>final<|message|>" in source
