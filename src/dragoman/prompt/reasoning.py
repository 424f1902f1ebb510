"""How a chat template lets its model reason: the markers, the switches, and the end of the prompt.

Also what the model writes around the text of its answer.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from dragoman.core.request import ChatPrompt, ReasoningEffort
from dragoman.output.marked_text_parser import TextMarkers
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.output.scanning import WHITESPACE
from dragoman.output.text_element import TextElement
from dragoman.prompt.sandbox import SandboxedTemplate, TemplateError
from dragoman.prompt.tool_formats.command_r import DIRECT_ANSWER
from dragoman.prompt.tool_formats.functionary_v32 import TO_ALL


class ReasoningMarkers(NamedTuple):
    """The texts around reasoning, and the white space around them."""

    opening: str
    closing: str
    special_tokens: tuple[str, ...] = ()
    """Parts of them that are special tokens, where the whole markers are none."""
    after_opening: str = "\n"
    before_closing: str = "\n"
    after_closing: str = "\n\n"
    is_message: bool = False
    """Whether the reasoning is a message of its own, so that a prompt may end with the closing text all the same."""
    closes_alone: bool = False
    """Whether a model that does not reason may write the closing text itself."""


DEFAULT_MARKERS: Final = ReasoningMarkers("<think>", "</think>")

CHANNEL_MARKERS: Final = ReasoningMarkers(
    "<|channel|>analysis<|message|>",
    "<|end|>",
    ("<|start|>", "<|channel|>", "<|message|>", "<|end|>"),
    after_opening="",
    before_closing="",
    after_closing="<|start|>assistant",
)
"""Of gpt-oss, whose reasoning is a message in a channel of its own."""


def _own_message(opening: str, closing: str, special_tokens: tuple[str, ...]) -> ReasoningMarkers:
    """Return the markers of reasoning that is a message of its own, without white space around it."""
    markers = ReasoningMarkers(opening, closing, special_tokens, is_message=True)
    return markers._replace(after_opening="", before_closing="", after_closing="")


_SOLAR_TOKENS: Final = ("<|begin|>", "<|think|>", "<|content|>", "<|end|>")
_MUSE_TOKENS: Final = ("<|start|>", "<|message|>", "<|eom|>")
_KIMI_TOKENS: Final = ("<|open|>", "<|sep|>", "<|close|>")

_KNOWN_MARKERS: Final = {
    **{
        markers.closing: markers
        for markers in (
            DEFAULT_MARKERS,
            ReasoningMarkers("[THINK]", "[/THINK]"),
            ReasoningMarkers("<seed:think>", "</seed:think>"),
            ReasoningMarkers("<thought>", "</thought>"),
            ReasoningMarkers("<mm:think>", "</mm:think>", closes_alone=True),
            ReasoningMarkers("<|START_THINKING|>", "<|END_THINKING|>"),
            ReasoningMarkers("<|inner_prefix|>", "<|inner_suffix|>"),
            ReasoningMarkers("<|channel>thought\n", "<channel|>", ("<|channel>", "<channel|>")),
            ReasoningMarkers("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
        )
    },
    "<|begin|>assistant<|think|>": _own_message("<|think|>", "<|end|><|begin|>assistant", _SOLAR_TOKENS),
    "assistant to=self<|message|>": _own_message(" to=self<|message|>", "<|eom|><|start|>assistant", _MUSE_TOKENS),
    "open_tag('think')": _own_message("<|open|>think<|sep|>", "<|close|>think<|sep|>", _KIMI_TOKENS),
    "'</think{}>'": ReasoningMarkers("<think:opensource>", "</think:opensource>"),
}
"""Text in a template that shows which markers its model has → the markers.

The last are Solar Open's, Muse Glimmer's, Kimi K3's and Hunyuan 3's.
"""

_TEXT_ELEMENTS: Final = {
    "<|begin|>assistant<|content|>": TextElement(
        opening="<|content|>", closing="<|end|><|begin|>assistant", end="<|end|>", special_tokens=_SOLAR_TOKENS
    ),
    "assistant to=self<|message|>": TextElement(
        opening=" to=user<|message|>", closing="<|eom|><|start|>assistant", special_tokens=_MUSE_TOKENS
    ),
    "open_tag('response')": TextElement(
        opening="<|open|>response<|sep|>",
        closing="<|close|>response<|sep|>",
        end="<|close|>response<|sep|><|close|>message<|sep|>",
        before_calls=True,
        special_tokens=_KIMI_TOKENS,
    ),
    "`directly-answer` tool": DIRECT_ANSWER,
    ">>>all": TO_ALL,
}
"""Text in a template that shows in which element its model's text is.

They are Solar Open's, Muse Glimmer's, Kimi K3's, Command R's and Functionary 3.2's.
"""

_TEXT_MARKERS: Final = {
    "<|START_RESPONSE|>": TextMarkers("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    "<|START_TEXT|>": TextMarkers("<|START_TEXT|>", "<|END_TEXT|>"),
    "<response></response>": TextMarkers("<response>", "</response>"),
}
"""Text in a template that shows what its model writes around its text: Cohere's, and Granite 3.3's if it reasons."""

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

_SWITCHES: Final = ("enable_thinking", "thinking", "reasoning")
"""Variables that are true if the model is to reason."""

_HUNYUAN_EFFORTS: Final[dict[ReasoningEffort, str]] = {
    "none": "no_think",
    "minimal": "low",
    "low": "low",
    "medium": "high",
    "high": "high",
}

_MESSAGE_WITH_BLOCKS: Final = re.compile(r"""\['type'\] == 'thinking'|\.type == ['"]thinking['"]""")

_REASONING: Final = "reasoning-9"
_CALLED: Final = "call-me-9"
_CALL: Final = {"id": "abcdefgh9", "type": "function", "function": {"name": _CALLED, "arguments": {}}}
_QUESTION: Final = {"role": "user", "content": "Well?"}
_ANSWERS: Final[list[list[dict[str, Any]]]] = [
    [{"role": "assistant", "content": "Yes."}],
    [
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        {"role": "tool", "name": _CALLED, "content": "Rain."},
    ],
]
"""Ends of conversations. Some templates write the reasoning of the last answer only, or only beside calls."""


class TemplateReasoning:
    """The reasoning of one template's model."""

    def __init__(self, template: SandboxedTemplate, *, is_supported: bool) -> None:
        """`is_supported`: the model can reason even if the template does not show it."""
        self._template = template
        self._found = find_markers(template.source)
        self.is_supported = is_supported or self._found is not None
        """Whether the model may reason before it answers."""
        self._in_blocks = (
            "reasoning_content" not in template.source and _MESSAGE_WITH_BLOCKS.search(template.source) is not None
        )

    @functools.cached_property
    def _markers(self) -> ReasoningMarkers:
        """The markers, with the white space that the template writes around them, if it does."""
        return self._measured(_ANSWERS) or self._found or DEFAULT_MARKERS

    @functools.cached_property
    def _markers_before_calls(self) -> ReasoningMarkers:
        """The same where an answer is a call, if the template writes calls."""
        return self._measured(_ANSWERS[1:], then=_CALLED) or self._markers

    def _measured(self, answers: Sequence[list[dict[str, Any]]], then: str = "") -> ReasoningMarkers | None:
        """Return the markers as the template writes them in the first of the answers that shows them, and `then`."""
        markers = self._found or DEFAULT_MARKERS
        if markers is CHANNEL_MARKERS or markers.is_message:
            return markers
        opening, closing = re.escape(markers.opening.rstrip(WHITESPACE)), re.escape(markers.closing)
        pattern = re.compile(rf"{opening}(\s*){_REASONING}(\s*){closing}(\s*)")
        for first, *rest in answers:
            answer = {**first, **self.fields(first["content"], _REASONING)}
            variables = {"messages": [_QUESTION, answer, *rest], "tools": None, **self.variables("high")}
            try:
                text = self._template.render_with_null({"bos_token": "", "eos_token": "", **variables})
            except TemplateError:
                continue
            if (match := pattern.search(text)) is not None and then in text[match.end() :]:
                return markers._replace(after_opening=match[1], before_closing=match[2], after_closing=match[3])
        return None

    def fields(self, content: str, reasoning: str) -> dict[str, Any]:
        """Return the fields of an earlier answer that has reasoning, by the names that templates read."""
        if self._in_blocks:
            text = [{"type": "text", "text": content}] if content else []
            return {"content": [{"type": "thinking", "thinking": reasoning}, *text]}
        fields = {"reasoning_content": reasoning, "reasoning": reasoning}
        return {**fields, "thinking": reasoning} if ".thinking" in self._template.source else fields

    def variables(self, effort: ReasoningEffort | None) -> dict[str, Any]:
        """Return the variables that set the amount of reasoning, as far as the template reads them."""
        if effort is None:
            return {}
        words: dict[ReasoningEffort, str] = {"none": "low"}
        if "'no_think'" in self._template.source:
            words = _HUNYUAN_EFFORTS
        strength = "low" if effort in ("none", "minimal") else effort
        values: dict[str, Any] = {
            **dict.fromkeys(_SWITCHES, effort != "none"),
            "thinking_mode": "disabled" if effort == "none" else "enabled",
            "reasoning_effort": words.get(effort, effort),
            "reasoning_strength": strength,
            "thinking_effort": {"low": "low", "medium": "high"}.get(strength, "max"),
        }
        if effort in _TEMPLATE_BUDGETS:
            values["thinking_budget"] = _TEMPLATE_BUDGETS[effort]
        return {name: value for name, value in values.items() if name in self._template.variables}

    def spec(
        self, effort: ReasoningEffort | None, *, opened_by_prompt: bool, before_calls: bool = False
    ) -> ReasoningSpec:
        """Return the reasoning to expect. `before_calls`: the answer after it must be calls."""
        markers = self._markers_before_calls if before_calls else self._markers
        return ReasoningSpec(
            markers.opening,
            markers.closing,
            opened_by_prompt=opened_by_prompt,
            budget_tokens=None if effort == "none" else REASONING_BUDGETS[effort],
            special_tokens=markers.special_tokens,
            after_closing=markers.after_closing,
            closes_alone=markers.closes_alone and not opened_by_prompt,
        )

    def end_prompt(
        self, prompt: str, effort: ReasoningEffort | None, *, constrained: bool, must_call: bool = False
    ) -> tuple[str, ReasoningSpec | None]:
        """End the prompt according to the effort; return it and the reasoning to expect, if any.

        `constrained`: a grammar constrains the text after the reasoning, so the prompt must open the reasoning itself.
        `must_call`: that text must be calls.
        """
        constrained = constrained or must_call
        markers = self._markers
        opening, end = markers.opening.rstrip(WHITESPACE), prompt.rstrip(WHITESPACE)
        if end.endswith(f"{opening}{markers.closing}" if markers.is_message else markers.closing):
            return prompt, None
        opened_by_prompt = end.endswith(opening)
        if effort == "none":
            closed = f"{markers.after_opening}{markers.before_closing}{markers.closing}{markers.after_closing}"
            if opened_by_prompt:
                return f"{end}{closed}", None
            # A template that knows the switch needs no help.
            has_switch = bool(self.variables(effort).keys() - {"reasoning_effort", "reasoning_strength"})
            return prompt if has_switch else f"{prompt}{opening}{closed}", None
        if constrained and not opened_by_prompt:
            prompt, opened_by_prompt = f"{prompt}{opening}{markers.after_opening}", True
        return prompt, self.spec(effort, opened_by_prompt=opened_by_prompt, before_calls=must_call)


def find_markers(source: str) -> ReasoningMarkers | None:
    """Return the markers of a template; None if it is for no reasoning model.

    Templates for reasoning models write or remove the reasoning of earlier answers.
    """
    if is_in_channels(source):
        return CHANNEL_MARKERS
    return next((markers for text, markers in _KNOWN_MARKERS.items() if text in source), None)


def find_text_markers(source: str) -> TextMarkers | None:
    """Return what the template's model writes around the text of an answer; None: nothing."""
    return next((markers for text, markers in _TEXT_MARKERS.items() if text in source), None)


def find_text_element(source: str) -> TextElement | None:
    """Return the element of text in the answers of a template's model; None: text stands by itself."""
    return next((element for text, element in _TEXT_ELEMENTS.items() if text in source), None)


def element_of_answer(element: TextElement, prompt: ChatPrompt, rendered: str) -> TextElement | None:
    """Return the element of the text of the answer to a prompt that was rendered like this; None: there is none."""
    if prompt.continue_final_message or rendered.endswith(element.opening):
        return msgspec.structs.replace(element, opened_by_prompt=True) if element.closing else None
    if not rendered.endswith(element.prompt_end):
        return None
    names = () if prompt.tools is None else (tool.name for tool in prompt.tools.tools)
    return None if element.function in names else element


def is_in_channels(source: str) -> bool:
    """Whether a template is gpt-oss's, whose messages have channels."""
    return "<|channel|>final<|message|>" in source
