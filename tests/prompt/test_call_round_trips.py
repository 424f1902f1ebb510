"""Calls that a model generates: they are read, come back with their results, and begin the next prompt as generated.

The models have random weights, and vocabularies with the special tokens of each template's family.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from dragoman.core.events import AnyDelta, Delta, Event, ReasoningDelta, ToolCallDelta
from dragoman.core.request import (
    ChatPrompt,
    Message,
    PromptTruncation,
    ReasoningEffort,
    SamplingParams,
    Tool,
    ToolCall,
    ToolOptions,
)
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.model import Model, Vocabulary
from dragoman.engines.llama.wire.messages import GenerateCommand, rendered_prompt
from dragoman.output.markup import ID, INDEX, ToolCallMarkup
from dragoman.prompt.template import ChatTemplate, RenderedPrompt
from tests.support.chat_templates import (
    FUNCTIONARY_V32,
    MINIMAX_M3,
    OPEN_MODELS,
    WRITING,
    open_chat_template,
    open_model_template,
    requires_open_models,
)
from tests.support.in_process_engine import InProcessEngine
from tests.support.models import THREADS
from tests.support.special_token_model import load_special_token_model

_WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
_TOOLS = (
    Tool("get_weather", "The weather of a city.", _WEATHER),
    Tool("get_time", "The time.", {"type": "object", "properties": {}, "additionalProperties": False}),
)
REQUIRED = ToolOptions(_TOOLS, "required", parallel=False)
NAMED = ToolOptions(_TOOLS, "named", "get_weather")
AUTO = ToolOptions(_TOOLS, "auto", parallel=False)
QUESTION = Message(role="user", content="Well?")
THOUGHTS = "I see."
RESULT = "Rain."

REDUCED = ("mistral", "gemma4", "command_r")
"""Templates of the tests that leave tools out of later prompts, call the model something else there, or instruct it."""

FORCED_ONLY = "Where a call is forced"
"""In the documentation, the beginning of the templates for which only calls that are forced change."""

CONTEXT = ContextOptions(2048, 64, THREADS)

_EOS, _FIRST_BYTE = 2, 3


class RoundTrip(NamedTuple):
    """A question with tools, for which an answer is to be generated."""

    template: ChatTemplate
    vocabulary: Vocabulary
    options: ToolOptions
    thoughts: str | None
    effort: ReasoningEffort | None

    @property
    def prompt(self) -> ChatPrompt:
        return ChatPrompt(messages=(QUESTION,), tools=self.options, reasoning_effort=self.effort)

    def render(self) -> RenderedPrompt:
        return self.template.render(self.prompt, constrained=self.options.choice != "auto")

    def render_next(self, call: ToolCall, content: str, thoughts: str | None) -> RenderedPrompt:
        answer = Message(role="assistant", content=content, tool_calls=(call,), reasoning=thoughts)
        result = Message(role="tool", content=RESULT, tool_call_id=call.id)
        return self.template.render(msgspec.structs.replace(self.prompt, messages=(QUESTION, answer, result)))

    def tokens(self, rendered: RenderedPrompt) -> list[int]:
        tokens: list[int] = self.vocabulary.tokenize_rendered(rendered.text, rendered.literal_offsets).tolist()
        return tokens

    def command(self, number: int) -> GenerateCommand:
        """Return the request. What a trained model would write before a call is in its resume tokens."""
        rendered = self.render()
        known = self.vocabulary.tokenize_fragment(self._known_beginning(rendered))
        markup = rendered.parser_spec.markup
        assert markup is not None
        return GenerateCommand(
            number=number,
            # The tokens do not depend on what the model reads.
            prompt=rendered_prompt(rendered.text, rendered.literal_offsets, PromptTruncation(8)),
            sampling=SamplingParams(max_tokens=300, logit_bias=self._bias(markup)),
            n=1,
            echo=False,
            priority=0,
            tools=self.options,
            output_format=rendered.parser_spec,
            resume_token_ids=(tuple(known),) if known else (),
        )

    def _known_beginning(self, rendered: RenderedPrompt) -> str:
        spec = rendered.parser_spec
        markup, reasoning = spec.markup, spec.reasoning
        assert markup is not None
        before = self._before_call(rendered, markup)
        opening = f"{markup.section_open}{markup.call_open}{markup.head('get_weather')}"
        if markup.in_channels:
            opening = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        call_id = next(each for each in ("aB3dE6gH9", "a1b2c3d4e5") if re.fullmatch(markup.id_pattern, each))
        opening = opening.replace(INDEX, str(markup.first_index)).replace(ID, call_id)
        if spec.text_element is not None:
            opening = opening.removeprefix(spec.text_element.prompt_end)
        if reasoning is None or (self.thoughts is None and not reasoning.opened_by_prompt):
            return f"{before}{opening}" if self.options.choice == "auto" else ""
        thoughts, closing, after = before.partition(reasoning.closing)
        if not closing:
            beginning = "" if reasoning.opened_by_prompt else reasoning.opening
            thoughts, after = f"{beginning}{THOUGHTS}", reasoning.after_closing
        end = f"{after}{opening}" if self.options.choice == "auto" else ""
        return f"{thoughts}{reasoning.closing}{end}"

    def _before_call(self, rendered: RenderedPrompt, markup: ToolCallMarkup) -> str:
        """Return what the template writes between the prompt and a call, where it repeats the prompt."""
        element = rendered.parser_spec.text_element
        if element is not None and element.prompt_end:
            return ""
        call = ToolCall("callabcd1", "get_weather", '{"city": "Rome", "days": 3}')
        next_text = self.render_next(call, "", self.thoughts).text
        opening = markup.section_open or markup.call_open or markup.head_before_name or markup.trigger
        answer = next_text.removeprefix(rendered.text)
        before, found, _ = answer.partition(opening.split("{")[0].rstrip() or opening)
        return before if found and answer != next_text and not markup.in_channels else ""

    def _bias(self, markup: ToolCallMarkup) -> dict[int, float]:
        """Return what makes a random model write the number and the id of a call like a trained one, and then end."""
        special = {text: self.vocabulary.special_token(text) for text in markup.special_tokens}
        bias = {token: 50.0 for token in special.values() if token is not None}
        if (prefix := special.get(markup.optional_prefix)) is not None:
            bias[prefix] = -100.0
        if INDEX in markup.head_before_name + markup.head_after_name:
            bias |= {_FIRST_BYTE + ord(str(markup.first_index)): 20.0, _FIRST_BYTE + ord('"'): 40.0}
        return {**bias, _EOS: 100.0}

    def continues(self, events: Sequence[Event]) -> bool:
        """Whether the prompt with the call and its result begins with the tokens of the first prompt and the answer."""
        calls = [event for event in events if isinstance(event, ToolCallDelta)]
        assert calls, f"{self.template.tool_format} {self.options.choice}: the answer is no call"
        assert calls[0].id is not None
        assert calls[0].name is not None
        call = ToolCall(calls[0].id, calls[0].name, "".join(delta.arguments for delta in calls))
        content = "".join(event.text for event in events if isinstance(event, Delta))
        thoughts = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
        generated = [token for event in events if isinstance(event, AnyDelta) for token in event.token_ids]
        computed = [*self.tokens(self.render()), *(token for token in generated if token != _EOS)]
        return self.tokens(self.render_next(call, content, thoughts or None))[: len(computed)] == computed


class Models:
    """Engines over models of each family's special tokens."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[frozenset[str], Model] = {}

    def model(self, tokens: frozenset[str]) -> Model:
        if tokens not in self._models:
            path = self._folder / f"{len(self._models)}.gguf"
            self._models[tokens] = load_special_token_model(path, tokens)
        return self._models[tokens]

    def close(self) -> None:
        for model in self._models.values():
            model.close()


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    models = Models(tmp_path)
    yield models
    models.close()


def changing(
    templates: Mapping[str, ChatTemplate], models: Models, options: Sequence[ToolOptions] = (REQUIRED, NAMED, AUTO)
) -> dict[str, set[str]]:
    """Return the choices of tools after which a template's next prompt does not repeat an answer with a call.

    Of answers with thoughts and without, one suffices: some templates are for one of them.
    """
    plain = _changing(templates, models, options, None, None)
    rest = {name: template for name, template in templates.items() if plain[name]}
    return plain | {
        name: plain[name] & choices for name, choices in _changing(rest, models, options, THOUGHTS, "high").items()
    }


def _changing(
    templates: Mapping[str, ChatTemplate],
    models: Models,
    options: Sequence[ToolOptions],
    thoughts: str | None,
    effort: ReasoningEffort | None,
) -> dict[str, set[str]]:
    trips: defaultdict[frozenset[str], list[tuple[str, RoundTrip]]] = defaultdict(list)
    for name, template in templates.items():
        if thoughts is None or template.supports_reasoning:
            tokens = special_tokens(template)
            vocabulary = models.model(tokens).vocabulary
            trips[tokens] += [(name, RoundTrip(template, vocabulary, each, thoughts, effort)) for each in options]
    changed: dict[str, set[str]] = {name: set() for named in trips.values() for name, _ in named}
    for tokens, named in trips.items():
        engine = InProcessEngine(models.model(tokens), CONTEXT, max_sequences=8, host_cache_tokens=0)
        answers = engine.generate([trip.command(number) for number, (_, trip) in enumerate(named)])
        engine.close()
        for (name, trip), events in zip(named, answers, strict=True):
            changed[name] |= set() if trip.continues(events) else {trip.options.choice}
    return changed


def template_of(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>")


def special_tokens(template: ChatTemplate) -> frozenset[str]:
    """Return the special tokens of a family, as its description has them."""
    spec = template.render(ChatPrompt(messages=(QUESTION,), tools=REQUIRED), constrained=True).parser_spec
    assert spec.markup is not None
    texts = set(spec.markup.special_tokens)
    if spec.reasoning is not None:
        texts |= {*(spec.reasoning.special_tokens or (spec.reasoning.opening, spec.reasoning.closing))}
    if spec.text_element is not None:
        texts |= {*spec.text_element.special_tokens}
    if "<|calls|>" in texts:  # llama.cpp takes <|end|> for the end of an answer unless it finds both.
        texts.add("<|flush|>")
    if spec.text_markers is not None:
        texts |= {spec.text_markers.opening, spec.text_markers.closing}
    return frozenset(text for text in texts if not re.search(r"\s", text))


def test_what_a_model_generates_begins_the_next_prompt(models: Models) -> None:
    further = [("functionary_v32", FUNCTIONARY_V32), ("minimax_m3", MINIMAX_M3)]
    templates: dict[str, ChatTemplate] = {
        name: template_of(source) for name, source in [*WRITING, *further] if name not in REDUCED
    }
    assert changing(templates, models) == {name: set() for name in templates}


@requires_open_models
def test_the_documentation_names_the_templates_whose_answers_are_computed_again(models: Models) -> None:
    documentation = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    [section] = re.findall(r"## Prefixes over tool calls\n(.*?)\n## ", documentation, re.DOTALL)
    of_all, of_forced = (set(re.findall("`([^`]+)`", rows)) for rows in section.split(FORCED_ONLY))
    templates = {path.stem: open_chat_template(path.stem) for path in sorted(OPEN_MODELS.glob("*.jinja"))}
    known = {name: template for name, template in templates.items() if template.tool_format != "generic"}
    changed = changing(known, models, (REQUIRED, AUTO))
    assert of_all == {name for name, choices in changed.items() if "auto" in choices} | {*filter(writes_seconds, known)}
    assert of_forced == {name for name, choices in changed.items() if choices} - of_all


def writes_seconds(name: str) -> bool:
    """Whether the template writes the time to the second, so that hardly two prompts are equal."""
    return "%S" in open_model_template(name)
