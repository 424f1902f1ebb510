"""A model's chat template, which renders a conversation as the text that the model continues.

Templates receive OpenAI's dictionaries, as in Hugging Face's transformers.
"""

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dragoman.core.errors import BadRequest
from dragoman.core.limits import is_large_prompt
from dragoman.core.request import ChatPrompt, Message, Tool, ToolOptions
from dragoman.output.markup import ToolFormatName
from dragoman.prompt.chatml import CHATML
from dragoman.prompt.continuation import continued_reasoning, cut_at_end, mark_end
from dragoman.prompt.control_tokens import NO_SPECIAL_TEXTS, ControlTokenTexts, EscapedPrompt, SpecialTokenTexts
from dragoman.prompt.message_forms import join_system, merge_system, other_forms
from dragoman.prompt.output_parser import OutputParserSpec
from dragoman.prompt.reasoning import (
    TemplateReasoning,
    element_of_answer,
    find_markers,
    find_text_element,
    find_text_markers,
    is_in_channels,
)
from dragoman.prompt.sandbox import (
    SandboxedTemplate,
    TemplateError,
    TemplateRefusal,
    TooManySteps,
    strftime_now,
    to_json,
)
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.detection import XML_TOOLS, TemplateTraits, detect_traits, write_alike
from dragoman.prompt.tool_formats.format import ToolFormat, call_fields, tool_fields, with_function_names
from dragoman.prompt.tool_formats.generic import GENERIC_TAGS, as_text, with_tools, with_written_calls

RESERVED_VARIABLES = frozenset({"messages", "tools", "bos_token", "eos_token", "add_generation_prompt"})
"""Names that a request's template arguments must not have."""

MAX_STEPS_IN_PLACE = 20_000
"""Blocks, such as bodies of loops, that a model's own template enters on the event loop: some 10 ms."""

_DOCUMENTS = "documents"
_DATE = "date_string"
_FIREWORKS = ("functions", "datetime")


class RenderedPrompt(msgspec.Struct, frozen=True):
    """A conversation as text, ready for the assistant's turn."""

    text: str
    parser_spec: OutputParserSpec
    """How to parse the answer."""
    literal_offsets: tuple[int, ...] = ()
    """Characters of the text, in ascending order, that are no part of a control token, whatever is around them."""


class ChatTemplate:
    """Renders conversations as `tokenizer.apply_chat_template` of Hugging Face's transformers does."""

    def __init__(
        self,
        source: str | None,
        *,
        bos: str,
        eos: str,
        supports_reasoning: bool = False,
        tool_format: ToolFormatName | None = None,
        special_texts: SpecialTokenTexts = NO_SPECIAL_TEXTS,
        max_steps: int | None = None,
    ) -> None:
        """Use ChatML if `source` is None. `render` reports a source that does not compile, since other routes work.

        `supports_reasoning`: the model can reason even if this template does not show it. `tool_format`: how it calls
        tools, whatever the template shows. `special_texts`: those that only the template may turn into tokens.
        `max_steps`: see SandboxedTemplate.
        """
        self.source = source or CHATML
        self.bos = bos
        self.eos = eos
        self.configured_tool_format = tool_format
        """The `tool_format` that was passed."""
        self._template = SandboxedTemplate(self.source, max_steps)
        self._reasoning = TemplateReasoning(self._template, is_supported=supports_reasoning)
        self._in_channels = is_in_channels(self.source)
        self._text_markers = find_text_markers(self.source)
        self._text_element = find_text_element(self.source)
        self.supports_reasoning = self._reasoning.is_supported
        """Whether the model may reason before it answers."""
        self._special_texts = special_texts

    @property
    def tool_format(self) -> ToolFormatName:
        """How the model calls tools."""
        return self.configured_tool_format or self._traits.tool_format

    @functools.cached_property
    def _tool_format(self) -> ToolFormat:
        """The format, which writes calls itself if the template does not."""
        known, traits = FORMATS[self.tool_format], self._traits
        if not write_alike(traits.tool_format, self.tool_format):
            return as_text(known)
        return known if traits.writes_calls else with_written_calls(known, marks_results=traits.marks_results)

    @functools.cached_property
    def _control_tokens(self) -> ControlTokenTexts:
        return ControlTokenTexts(self._special_texts.control + self._written_markup)

    @functools.cached_property
    def _tails(self) -> tuple[str, ...]:
        return self._control_tokens.find_tails(self.source)

    @functools.cached_property
    def _traits(self) -> TemplateTraits:
        return detect_traits(self.source, self._template)

    def render(self, prompt: ChatPrompt, *, constrained: bool = False) -> RenderedPrompt:
        """Render the prompt with this template.

        Raises BadRequest if the template does not accept the messages, and TooManySteps if there is a limit of steps.

        `constrained`: a grammar constrains the answer's text, after its reasoning.
        RequestTemplateRenderer handles the prompt's `template` and `template_arguments`.
        """
        escaped = self.escape(prompt)
        check_documents(prompt, self.source)
        try:
            rendered = self.apply(escaped.prompt, {}, constrained=constrained)
        except TooManySteps:
            raise
        except TemplateRefusal as refusal:
            message = f"The model's chat template refuses these messages: {escaped.restore(str(refusal))[0]}"
            raise BadRequest(message, "messages") from refusal
        except TemplateError as error:
            message = f"The model's chat template cannot be applied: {escaped.restore(str(error))[0]}"
            raise BadRequest(message, "messages") from error
        return restore_prompt(escaped, rendered)

    def render_in_place(self, prompt: ChatPrompt, *, constrained: bool = False) -> RenderedPrompt | None:
        """Do what `render` does; None: it may take long, and is left to RequestTemplateRenderer. Raises BadRequest."""
        if prompt.template is not None or prompt.template_arguments or is_large_prompt(prompt):
            return None
        try:
            return self.render(prompt, constrained=constrained)
        except TooManySteps:
            return None

    def escape(self, prompt: ChatPrompt) -> EscapedPrompt:
        """Replace a character of each control token in what people wrote (prompt.control_tokens). Raises BadRequest.

        The template is the prompt's own or, without one, this one.
        """
        control_tokens, tails, source = self._control_tokens, self._tails, self.source
        if prompt.template is not None:
            source = prompt.template
            # Which format it has is not known here, so the tags of the generic one count as its markup.
            control_tokens = ControlTokenTexts(self._special_texts.control + self._markup_in(source, GENERIC_TAGS))
            tails = control_tokens.find_tails(source)
        if not tails and not _contains_any(prompt, control_tokens.first_bytes):
            return EscapedPrompt(prompt, None)
        # Such templates remove the reasoning from an assistant's message.
        markers = find_markers(source)
        kept = frozenset[str]()
        if markers is not None and not markers.is_message:
            kept = frozenset((markers.opening, markers.closing, *markers.special_tokens))
        return control_tokens.escape(prompt, source=source, tails=tails, kept=kept)

    @functools.cached_property
    def _written_markup(self) -> tuple[str, ...]:
        """The markup that the template writes, or that `apply` writes for it."""
        known = self._tool_format
        writes_text = known.writes_calls_as_text or not known.template_writes_tools
        return self._markup_in(self.source, (*GENERIC_TAGS, *known.markup.special_tokens) if writes_text else ())

    def _markup_in(self, source: str, written: Sequence[str]) -> tuple[str, ...]:
        return tuple(text for text in self._special_texts.markup if text in written or text in source)

    def apply(
        self,
        prompt: ChatPrompt,
        arguments: Mapping[str, Any],
        *,
        constrained: bool,
        max_characters: int | None = None,
    ) -> RenderedPrompt:
        """Render with further variables, up to `max_characters` of text. Raises sandbox.TemplateError.

        What the template leaves out or refuses is put where it does not: the text of late system messages behind the
        first one, that of all in front of the first user message; consecutive messages of one role become one.
        """
        tool_format = self._tool_format
        effort = prompt.reasoning_effort if self.supports_reasoning else None
        variables = {
            _DOCUMENTS: list(prompt.documents) or None,
            **_own_variables(self.source, prompt.tools if tool_format.template_writes_tools else None),
            **({} if effort is None else self._reasoning.variables(effort)),
            **arguments,
            "tools": _tools(prompt.tools, tool_format) if tool_format.template_writes_tools else None,
            "add_generation_prompt": prompt.add_generation_prompt and not prompt.continue_final_message,
            "bos_token": self.bos,
            "eos_token": self.eos,
        }
        messages = self._with_shown_system(
            self._adapted(prompt, tool_format) if _uses_tools(prompt) else list(prompt.messages)
        )
        reasoning = None
        if prompt.continue_final_message:
            conversation = mark_end(messages, self.source)
            text = cut_at_end(self._render(conversation.messages, variables, max_characters), conversation.mark)
            if self.supports_reasoning:
                reasoning = continued_reasoning(messages[-1].text, self._reasoning.spec(effort, opened_by_prompt=True))
        else:
            text = self._render(messages, variables, max_characters)
            if self.supports_reasoning and prompt.add_generation_prompt:
                must_call = prompt.tools is not None and prompt.tools.choice != "auto"
                text, reasoning = self._reasoning.end_prompt(text, effort, constrained=constrained, must_call=must_call)
        tool_format_name = None if prompt.tools is None else self.tool_format
        element = self._text_element and element_of_answer(self._text_element, prompt, text)
        spec = OutputParserSpec(
            tool_format_name,
            reasoning,
            self._in_channels,
            self._text_markers,
            element,
            functions=None if prompt.tools is None else tool_format.called_names(prompt.tools),
        )
        return RenderedPrompt(text, spec)

    def _adapted(self, prompt: ChatPrompt, tool_format: ToolFormat) -> list[Message]:
        """Adapt the messages of a conversation with tools to what this template writes."""
        messages = tool_format.adapt(with_function_names(prompt.messages), prompt.tools)
        if tool_format.template_writes_tools and not self._traits.shows_tools:
            messages = with_tools(messages, prompt.tools, tool_format.markup)
        if self._traits.reads_tools_of_system and prompt.tools and all(m.role != "system" for m in messages[:1]):
            messages = [Message(role="system", content=""), *messages]
        return messages

    def _with_shown_system(self, messages: list[Message]) -> list[Message]:
        """Move the text of system messages to where the template does not leave it out."""
        positions = [index for index, message in enumerate(messages) if message.role == "system"]
        if not positions:
            return messages
        if not self._traits.shows_system:
            return merge_system(messages)
        return messages if positions == [0] or self._traits.shows_late_system else join_system(messages)

    def _render(self, messages: Sequence[Message], variables: Mapping[str, Any], max_characters: int | None) -> str:
        def render(conversation: Sequence[Message]) -> str:
            fields = [self._message_fields(message) for message in conversation]
            if self._traits.reads_tools_of_system and variables["tools"] and fields[0]["role"] == "system":
                fields[0]["tools"] = to_json([tool["function"] for tool in variables["tools"]])
            return self._template.render_with_null({**variables, "messages": fields}, max_characters)

        try:
            return render(messages)
        except TemplateRefusal as refusal:
            for other in other_forms(messages):
                with contextlib.suppress(TemplateRefusal):
                    return render(other)
            raise refusal

    def _message_fields(self, message: Message) -> dict[str, Any]:
        """Return a message's fields. Missing ones are left out, since templates test whether a field exists."""
        text = message.content if isinstance(message.content, str) else message.text
        fields: dict[str, Any] = {"role": message.role, "content": text}
        if message.name is not None:
            fields["name"] = message.name
        if message.tool_calls:
            fields["tool_calls"] = [
                call_fields(call, takes_objects=self._traits.takes_objects, takes_text=self._traits.takes_text)
                for call in message.tool_calls
            ]
            if not text and not self._traits.takes_empty_content:
                fields["content"] = None
        if message.tool_call_id is not None:
            fields["tool_call_id"] = message.tool_call_id
        if message.reasoning is not None:
            fields |= self._reasoning.fields(text, message.reasoning)
        return fields


def check_tool_format(source: str | None, name: ToolFormatName) -> None:
    """Raise ValueError if a model with this template cannot call tools in the format."""
    in_channels = is_in_channels(source or CHATML)
    if FORMATS[name].markup.in_channels and not in_channels:
        raise ValueError(f"tool_format {name} needs a chat template with channels")
    if in_channels and not FORMATS[name].markup.in_channels:
        raise ValueError(f"tool_format {name} cannot be set for a model that answers in channels, as gpt-oss does")
    prompt = ChatPrompt(messages=(Message(role="user", content="Hi"),), tools=ToolOptions((Tool("f"),)))
    try:
        ChatTemplate(source, bos="", eos="", tool_format=name).render(prompt)
    except BadRequest as error:
        reason = f"{error.message[0].lower()}{error.message[1:]}"
        raise ValueError(f"tool_format {name} cannot be set: {reason}") from error


def restore_prompt(escaped: EscapedPrompt, rendered: RenderedPrompt) -> RenderedPrompt:
    """Put the characters back that ChatTemplate.escape replaced."""
    if escaped.substitution is None:
        return rendered
    text, offsets = escaped.restore(rendered.text)
    return msgspec.structs.replace(rendered, text=text, literal_offsets=offsets)


def check_documents(prompt: ChatPrompt, source: str) -> None:
    """Raise BadRequest if the prompt has documents for a template that does not read them."""
    if prompt.documents and _DOCUMENTS not in source:
        raise BadRequest("The model's chat template does not read documents; write them into a message", _DOCUMENTS)


def _contains_any(prompt: ChatPrompt, beginnings: Iterable[bytes]) -> bool:
    """Whether one of these may be in a written text. One search over all texts is fast."""
    try:
        encoded = msgspec.msgpack.encode((prompt.messages, prompt.tools, prompt.template_arguments, prompt.documents))
    except (OverflowError, RecursionError):  # MessagePack has no larger integers than 64 bits.
        return True
    return any(beginning in encoded for beginning in beginnings)


def _uses_tools(prompt: ChatPrompt) -> bool:
    return prompt.tools is not None or any(message.role == "tool" or message.tool_calls for message in prompt.messages)


def _tools(tools: ToolOptions | None, known: ToolFormat) -> list[dict[str, Any]] | None:
    return None if tools is None else [tool_fields(tool, known) for tool in tools.tools]


def _own_variables(source: str, tools: ToolOptions | None) -> dict[str, Any]:
    """Return variables that some templates read beside transformers' own.

    `date_string` is today, since Llama 3.1's otherwise name a date of their own. Firefunction's needs the functions as
    JSON and the date: https://huggingface.co/fireworks-ai/llama-3-firefunction-v2. Its time of day is left out, since
    prompts that begin differently share no prefix.
    """
    variables: dict[str, Any] = {_DATE: strftime_now("%d %b %Y")} if _DATE in source else {}
    if tools is not None and XML_TOOLS in source:
        variables[XML_TOOLS] = [tool_fields(tool)["function"] for tool in tools.tools]
    if all(name in source for name in _FIREWORKS):
        functions = [tool_fields(tool)["function"] for tool in (() if tools is None else tools.tools)]
        variables |= zip(_FIREWORKS, (to_json(functions, indent=4), strftime_now("%Y-%m-%d")), strict=True)
    return variables
