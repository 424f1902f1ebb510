"""The templates of open models render as with transformers, conversation by conversation.

The reference gets the messages as a user of transformers writes them. Where dragoman gives a template something else,
the tables below say what, and the reference gets the same; all of them must be needed. What a template refuses is
named with its reason.
"""

import functools
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import jinja2
import msgspec
import pytest

from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, Message
from dragoman.prompt.control_tokens import SpecialTokenTexts
from dragoman.prompt.template import ChatTemplate
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import calls_as_text, tool_fields
from dragoman.prompt.tool_formats.generic import with_tools
from tests.support.chat_templates import OPEN_MODELS, open_model_template, requires_open_models
from tests.support.conversations import CONVERSATIONS
from tests.support.reference_rendering import BOS, EOS, ReferenceRefusal, ReferenceTemplate

MODELS = sorted(path.stem for path in OPEN_MODELS.glob("*.jinja"))

SPECIAL_TEXTS = SpecialTokenTexts(
    control=("<|im_start|>", "<|im_end|>", "<|eot_id|>", BOS, EOS), markup=("<tool_call>", "</tool_call>")
)

REFUSED = {
    ("Apertus-8B-Instruct", "result_without_call"): "Tool message outside of assistant",
    ("tool_chat_template_apertus", "result_without_call"): "Tool message outside of assistant",
    ("Kimi-K3", "result_without_call"): "tool messages need a resolvable tool name",
    ("MiniMax-M2", "result_without_call"): "there was no previous assistant message with a tool call",
    ("MiniMax-M3", "result_without_call"): "there was no previous assistant message with a tool call",
    ("openai-gpt-oss-120b", "result_without_call"): "there was no previous assistant message with a tool call",
}
"""What a template refuses, with its reason."""

NEVER_SYSTEM = {
    "google-gemma-2-2b-it",
    "template_chatglm",
    "template_chatglm2",
    "template_falcon",
    "tool_chat_template_glm4",
    "tool_chat_template_granite_20b_fc",
}
"""Templates that leave system messages out or refuse them. Their text is put in front of the first user message."""

FIRST_SYSTEM_ONLY = {
    "Apertus-8B-Instruct",
    "Bielik-11B-v3.0-Instruct",
    "HuggingFaceTB-SmolLM3-3B",
    "MiniMax-M1",
    "MiniMax-M2",
    "MiniMax-M3",
    "Mistral-Small-3.2-24B-Instruct-2506",
    "NVIDIA-Nemotron-Nano-v2",
    "Qwen3.5-4B",
    "Reka-Edge",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "llama-cpp-deepseek-r1",
    "llama-cpp-rwkv-world",
    "mistralai-Ministral-3-14B-Reasoning-2512",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "openai-gpt-oss-120b",
    "template_alpaca",
    "template_inkbot",
    "tool_chat_template_apertus",
    "tool_chat_template_gemma3_pythonic",
    "tool_chat_template_internlm2_tool",
    "tool_chat_template_mistral",
    "tool_chat_template_mistral3",
    "tool_chat_template_mistral_parallel",
    "tool_chat_template_phi4_mini",
}
"""Templates that leave one of two system messages out, or refuse a late one. Their texts become one message."""

ALTERNATING = {
    "Mistral-Small-3.2-24B-Instruct-2506",
    "google-gemma-2-2b-it",
    "mistralai-Ministral-3-14B-Reasoning-2512",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "tool_chat_template_gemma3_pythonic",
    "tool_chat_template_mistral",
    "tool_chat_template_mistral_parallel",
}
"""Templates that refuse two messages of a user in a row, which become one."""

NO_NULL = {
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "tool_chat_template_functiongemma",
}
"""Templates that fail if `tools` is null, which is absent then."""

NO_NULL_BESIDE_DOCUMENTS = {"Cohere2MoE", "CohereForAI-c4ai-command-r7b-12-2024-tool_use"}
"""Templates that do so only if there are documents."""

FUNCTIONS_AS_TEXT = {"fireworks-ai-llama-3-firefunction-v2"}
"""Templates that take the functions and the date as texts of their own."""

TEXT_ARGUMENTS = {
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "meetkai-functionary-medium-v3.2",
    "tool_chat_template_phi4_mini",
}
"""Templates that refuse arguments that are an object, or would write them in Python's syntax."""

NULL_CONTENT = {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"}
"""Templates that write an empty turn after or instead of a call unless its content is null."""

CHANGING_LISTS = {"Kimi-K2-Instruct", "Kimi-K2-Thinking"}
"""Templates that append to lists of their own, which transformers' sandbox refuses and ours allows."""

ENCODING_FILTERS = {"llama-cpp-deepseek-r1"}
"""Templates that encode what a filter yields, which transformers refuses."""

SHOWING_NO_TOOLS = {
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
}
"""Templates that write calls but do not describe the tools, which the system message does then."""

LEAVING_CALLS_OUT = {"ibm-granite-granite-3.3-2B-Instruct"}
"""Templates of families that write calls, which leave them out all the same. They are written as text."""

ADAPTED = {
    # One call in a message: Llama 3's refuse several, Llama 4's glue them together, gpt-oss's and
    # GigaChat's write the first only.
    ("GigaChat3-10B-A1.8B", "parallel_calls"),
    ("GigaChat3.1-10B-A1.8B", "parallel_calls"),
    ("meta-llama-Llama-3.1-8B-Instruct", "parallel_calls"),
    ("meta-llama-Llama-3.2-3B-Instruct", "parallel_calls"),
    ("meta-llama-Llama-3.3-70B-Instruct", "parallel_calls"),
    ("openai-gpt-oss-120b", "parallel_calls"),
    ("tool_chat_template_llama3.1_json", "parallel_calls"),
    ("tool_chat_template_llama3.2_json", "parallel_calls"),
    ("tool_chat_template_llama4_json", "parallel_calls"),
    # The text is the plan, which these write where the thoughts are.
    ("Cohere2MoE", "text_and_call"),
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "text_and_call"),
    # Text and calls are messages of their own.
    ("muse-glimmer", "text_and_call"),
    ("tool_chat_template_muse_glimmer", "text_and_call"),
    ("upstage-Solar-Open-100B", "text_and_call"),
    # The model's own ids, functions.NAME:NUMBER.
    ("moonshotai-Kimi-K2", "call"),
    ("moonshotai-Kimi-K2", "call_of_an_earlier_turn"),
    ("moonshotai-Kimi-K2", "call_without_arguments"),
    ("moonshotai-Kimi-K2", "parallel_calls"),
    ("moonshotai-Kimi-K2", "text_and_call"),
    ("moonshotai-Kimi-K2", "thoughts_and_call"),
}
"""Conversations that a family's templates get in the form of `ToolFormat.adapt`."""


@functools.cache
def _template(model: str) -> ChatTemplate:
    return ChatTemplate(open_model_template(model), bos=BOS, eos=EOS, special_texts=SPECIAL_TEXTS)


def _writes_calls_as_text(model: str) -> bool:
    """Whether dragoman writes the calls of earlier turns for templates of this family."""
    tool_format = FORMATS[_template(model).tool_format]
    writes_text = not tool_format.template_writes_tools or tool_format.writes_calls_as_text
    return writes_text or model in LEAVING_CALLS_OUT


def _given(model: str, name: str) -> ChatPrompt:
    """Return the conversation in the form in which the template is expected to get it."""
    prompt = CONVERSATIONS[name]
    messages: Sequence[Message] = prompt.messages
    tools, tool_format = prompt.tools, FORMATS[_template(model).tool_format]
    if tools is not None and (_writes_calls_as_text(model) or (model, name) in ADAPTED):
        adapt = calls_as_text(tool_format.markup, "\n") if model in LEAVING_CALLS_OUT else tool_format.adapt
        messages = adapt(messages, tools)
    if tools is not None and model in SHOWING_NO_TOOLS:
        messages = with_tools(messages, tools, tool_format.markup)
    if model in NEVER_SYSTEM:
        messages = _with_system_before_user(messages)
    if model in FIRST_SYSTEM_ONLY and name == "late_system":
        messages = _with_one_system(messages)
    if model in ALTERNATING and name == "user_twice":
        messages = [Message(role="user", content="\n\n".join(message.text for message in messages))]
    return msgspec.structs.replace(
        prompt, messages=tuple(messages), tools=tools if tool_format.template_writes_tools else None
    )


def _with_one_system(messages: Sequence[Message]) -> list[Message]:
    system = "\n\n".join(message.text for message in messages if message.role == "system")
    return [Message(role="system", content=system), *(message for message in messages if message.role != "system")]


def _with_system_before_user(messages: Sequence[Message]) -> list[Message]:
    texts = [message.text for message in messages if message.role == "system"]
    first, *rest = (message for message in messages if message.role != "system")
    return [Message(role="user", content="\n\n".join([*texts, first.text])), *rest]


def _variables(model: str, given: ChatPrompt) -> dict[str, Any]:
    """Return what the template is expected to get beside or instead of transformers' variables."""
    variables: dict[str, Any] = {}
    fails_on_null = model in NO_NULL or (model in NO_NULL_BESIDE_DOCUMENTS and given.documents)
    if fails_on_null and given.tools is None:
        variables["tools"] = jinja2.Undefined()
    if model in FUNCTIONS_AS_TEXT:
        tools = () if given.tools is None else given.tools.tools
        functions = [tool_fields(tool)["function"] for tool in tools]
        variables |= {"functions": json.dumps(functions, indent=4), "datetime": f"{datetime.now():%Y-%m-%d}"}
    return variables


def _rendered(model: str, prompt: ChatPrompt) -> str:
    try:
        return _template(model).render(prompt).text
    except BadRequest as error:
        return f"refused: {error.message}"


def _expected(reference: ReferenceTemplate, prompt: ChatPrompt, variables: dict[str, Any]) -> str:
    try:
        return reference.render(prompt, **variables)
    except ReferenceRefusal as refusal:
        return f"refused: {refusal}"


@requires_open_models
@pytest.mark.parametrize("model", MODELS)
def test_a_template_renders_as_with_transformers(model: str) -> None:
    reference = ReferenceTemplate(
        open_model_template(model),
        changes_lists=model in CHANGING_LISTS,
        encodes_filters=model in ENCODING_FILTERS,
        text_arguments=model in TEXT_ARGUMENTS,
        null_content=model in NULL_CONTENT,
    )
    today = {"date_string": f"{datetime.now():%d %b %Y}"} if "date_string" in open_model_template(model) else {}
    for name, sent in CONVERSATIONS.items():
        given = _given(model, name)
        variables = _variables(model, given)
        text, expected = _rendered(model, sent), _expected(reference, given, today | variables)
        if text != expected:  # Hunyuan's writes the time, and the second may have changed.
            text, expected = _rendered(model, sent), _expected(reference, given, today | variables)
        if sent.documents and "documents" not in open_model_template(model):
            assert "does not read documents" in text
            continue
        if (model, name) in REFUSED:
            assert text.startswith("refused: ")
            assert REFUSED[model, name] in text
            assert REFUSED[model, name] in expected
            continue
        assert text == expected, name
        if (given != sent or variables) and not (sent.tools and _writes_calls_as_text(model)):
            assert _expected(reference, sent, today) != expected, f"{name} needs no other form"


@requires_open_models
def test_what_is_named_is_there() -> None:
    named = (
        NEVER_SYSTEM
        | FIRST_SYSTEM_ONLY
        | ALTERNATING
        | NO_NULL
        | NO_NULL_BESIDE_DOCUMENTS
        | TEXT_ARGUMENTS
        | CHANGING_LISTS
        | ENCODING_FILTERS
    )
    named |= (
        NULL_CONTENT
        | LEAVING_CALLS_OUT
        | SHOWING_NO_TOOLS
        | FUNCTIONS_AS_TEXT
        | {model for model, _ in [*REFUSED, *ADAPTED]}
    )
    assert named <= set(MODELS)
