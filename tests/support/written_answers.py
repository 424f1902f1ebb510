"""Answers as the models of a template write them: calls, text and reasoning, by our markup and under our grammar."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec

from dragoman.core.request import ChatPrompt, Message, ReasoningEffort, Tool, ToolCall, ToolOptions
from dragoman.output.grammar import build_grammar
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
from dragoman.prompt.reasoning import TemplateReasoning
from dragoman.prompt.sandbox import SandboxedTemplate
from dragoman.prompt.template import ChatTemplate
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import write_calls
from tests.support.answers import ReadAnswer, answer_of
from tests.support.grammars import generate
from tests.support.output_parts import parse

_PLACE = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
_WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "exact": {"type": "boolean"},
        "place": _PLACE,
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city"],
    "additionalProperties": False,
}
"""Required properties stand first, and all in alphabetical order: that is an order which both grammars require."""

TOOLS = ToolOptions(
    (
        Tool("get_weather", "The weather of a city.", _WEATHER),
        Tool("get_time", "The time.", {"type": "object", "properties": {}, "additionalProperties": False}),
    ),
    parallel=True,
)

_REASONING = "I think\nso."
_TEXT = "Hello, <b>you</b>."
_MAX_TOKENS = 400


def _call(name: str, arguments: dict[str, Any], number: int = 0) -> ToolCall:
    return ToolCall(f"call{number:05}", name, json.dumps(arguments, ensure_ascii=False))


_OSLO = _call("get_weather", {"city": "Oslo"})
_ALL = _call(
    "get_weather", {"city": 'a "b" \\ é\nc', "days": 3, "exact": True, "place": {"x": -1}, "tags": ["x", "y z"]}, 1
)
_TIME = _call("get_time", {}, 2)


class WrittenAnswers:
    """The answers of a template's model to a request with TOOLS and a high effort, and how dragoman reads them."""

    def __init__(self, source: str) -> None:
        self.template = ChatTemplate(source, bos="<s>", eos="</s>")
        effort: ReasoningEffort | None = "high" if self.template.supports_reasoning else None
        self.variables = TemplateReasoning(SandboxedTemplate(source), is_supported=False).variables(effort)
        """Of the template, for this effort."""
        prompt = ChatPrompt(messages=(Message(role="user", content="Hi"),), tools=TOOLS, reasoning_effort=effort)
        self._spec: OutputParserSpec = self.template.render(prompt).parser_spec
        self._markup = FORMATS[self.template.tool_format].markup
        required = msgspec.structs.replace(TOOLS, choice="required")
        element = self._spec.text_element
        grammar = build_grammar(None, required, self._markup, lambda _: None, element=element)
        assert grammar.text is not None
        self._grammar, self._strings = grammar.text, grammar.strings

    def write(self, generated: int) -> dict[str, str]:
        """Return answers by what they are. `generated` of them are random ones under the grammar of required calls."""
        answers = {
            "text": self._text(_TEXT),
            "call": self._calls(_OSLO),
            "all kinds of values": self._calls(_ALL),
            "no arguments": self._calls(_TIME),
        }
        if not (self._markup.in_channels or self._markup.one_call):
            answers["several calls"] = self._calls(_OSLO, _ALL)
        element = self._spec.text_element
        if element is not None and element.closing:
            answers["text and call"] = f"{element.opening}{_TEXT}{element.closing}{write_calls(self._markup, [_OSLO])}"
        elif element is not None and element.prompt_end:
            answers["text and call"] = f"{element.opening}{_TEXT}{write_calls(self._markup, [_OSLO])}"
        elif element is None and not (self._markup.in_channels or self._markup.only_at_start):
            answers["text and call"] = f"{self._text(_TEXT)}\n\n{self._calls(_OSLO)}"
        for number in range(generated):
            if (text := generate(self._grammar, Random(number), _MAX_TOKENS)) is not None:
                answers[f"generated {number}"] = text
        return dict(self._with_reasoning(answers))

    def read(self, text: str) -> ReadAnswer:
        """Read an answer as an engine does."""
        parser = build_parser(self._spec, strings=self._strings)
        assert parser is not None
        return answer_of(parse(parser, text))

    def _with_reasoning(self, answers: dict[str, str]) -> Iterator[tuple[str, str]]:
        """Yield the answers with reasoning, where there is some, and a few without."""
        reasoning = self._spec.reasoning
        for kind, answer in answers.items():
            if reasoning is None:
                yield kind, answer
                continue
            before = _reasoning(reasoning, _REASONING)
            if answer.startswith(reasoning.after_closing):
                before = before.removesuffix(reasoning.after_closing)
            yield f"reasoning, {kind}", before + answer
            if not kind.startswith("generated"):
                closed = f"{reasoning.closing}{reasoning.after_closing}" if reasoning.opened_by_prompt else ""
                yield kind, closed + answer

    def _text(self, text: str) -> str:
        if self._markup.in_channels:
            return f"<|channel|>final<|message|>{text}"
        markers, element = self._spec.text_markers, self._spec.text_element
        if element is not None:
            return f"{element.opening}{text}{element.end}"
        return text if markers is None else f"{markers.opening}{text}{markers.closing}"

    def _calls(self, *calls: ToolCall) -> str:
        if self._markup.in_channels:
            [call] = calls
            header = f"<|channel|>commentary to=functions.{call.name} <|constrain|>json<|message|>"
            return f"{header}{call.arguments}"
        element = self._spec.text_element
        before = f"{element.opening}{element.closing}" if element is not None and element.before_calls else ""
        written = write_calls(self._markup, calls)
        return before + (written if element is None else written.removeprefix(element.prompt_end))


def _reasoning(spec: ReasoningSpec, text: str) -> str:
    opening = "" if spec.opened_by_prompt else spec.opening
    return f"{opening}{text}{spec.closing}{spec.after_closing}"
