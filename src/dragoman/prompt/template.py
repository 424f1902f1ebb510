"""A model's chat template: from a conversation to the text the model continues."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, Message, ToolOptions
from dragoman.output import reasoning_effort as thinking
from dragoman.prompt.conversation import merge_system, message_fields, tool_fields
from dragoman.prompt.output_parser import OutputParserSpec
from dragoman.prompt.sandbox import SandboxedTemplate, TemplateError, TemplateRefusal
from dragoman.prompt.tool_formats import FORMATS, detect_tool_format

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Used for a model that brings no template of its own, as llama.cpp does."""

RESERVED_VARIABLES = frozenset({"messages", "tools", "bos_token", "eos_token", "add_generation_prompt"})
"""What a request's template arguments may not be called."""


class RenderedPrompt(msgspec.Struct, frozen=True):
    """A conversation as text, ready for the assistant's turn."""

    text: str
    parser_spec: OutputParserSpec
    """How the answer is to be read."""


class ChatTemplate:
    """Renders conversations as `tokenizer.apply_chat_template` of Hugging Face's transformers does."""

    def __init__(self, source: str | None, *, bos: str, eos: str, supports_reasoning: bool = False) -> None:
        """`source` None: ChatML. A source that does not compile is reported by `render`, since other routes work.

        `thinks`: the model is known to think, even if this template says nothing of it.
        """
        self.source = source or CHATML
        self.bos = bos
        self.eos = eos
        self.supports_reasoning = supports_reasoning or thinking.supports_reasoning(self.source)
        """Whether the model may think before it answers."""
        self.tool_format = detect_tool_format(self.source)
        """How it calls tools."""
        self._template = SandboxedTemplate(self.source)

    def render(self, prompt: ChatPrompt, *, constrained: bool = False) -> RenderedPrompt:
        """The prompt, by this template. Raises BadRequest when the template does not take the messages.

        `constrained`: a grammar binds the answer after its thought, or tools are called for certain.
        RequestTemplateRenderer handles the prompt's `template` and `template_arguments`.
        """
        try:
            return self.apply(prompt, {}, constrained=constrained)
        except TemplateRefusal as refusal:
            message = f"The model's chat template refuses these messages: {refusal}"
            raise BadRequest(message, "messages") from refusal
        except TemplateError as error:
            raise BadRequest(f"The model's chat template cannot be applied: {error}", "messages") from error

    def apply(
        self,
        prompt: ChatPrompt,
        arguments: Mapping[str, Any],
        *,
        constrained: bool,
        max_characters: int | None = None,
    ) -> RenderedPrompt:
        """As `render`, with further variables and at most so many characters of text; raises sandbox.TemplateError.

        A template that refuses a system message gets its text in front of the first user message instead.
        """
        tool_format = FORMATS[self.tool_format]
        effort = prompt.effort if self.supports_reasoning else None
        switches = thinking.effort_variables(self.source, effort)
        variables = {
            "documents": None,
            **switches,
            **arguments,
            "tools": _tools(prompt.tools) if tool_format.template_writes_tools else None,
            "add_generation_prompt": True,
            "bos_token": self.bos,
            "eos_token": self.eos,
        }
        messages = tool_format.adapt(prompt.messages, prompt.tools)
        text = self._render(messages, variables, max_characters)
        reasoning = None
        if self.supports_reasoning:
            text, reasoning = thinking.end_prompt(
                text, effort, has_switch="enable_thinking" in switches, constrained=constrained
            )
        return RenderedPrompt(text, OutputParserSpec(None if prompt.tools is None else self.tool_format, reasoning))

    def _render(self, messages: Sequence[Message], variables: Mapping[str, Any], max_characters: int | None) -> str:
        def text_of(conversation: Sequence[Message]) -> str:
            fields = [message_fields(message) for message in conversation]
            return self._template.render({**variables, "messages": fields}, max_characters)

        try:
            return text_of(messages)
        except TemplateRefusal:
            merged = merge_system(messages)
            if merged == list(messages):
                raise
        return text_of(merged)


def _tools(tools: ToolOptions | None) -> list[dict[str, Any]] | None:
    return None if tools is None else [tool_fields(tool) for tool in tools.tools]
