"""How the templates of open models let them reason, and which reasoning of earlier answers they keep."""

from typing import Literal, NamedTuple

import pytest

from dragoman.core.request import ChatPrompt, Message, ReasoningEffort, Tool, ToolCall, ToolOptions
from dragoman.prompt.reasoning import REASONING_BUDGETS
from dragoman.prompt.template import ChatTemplate
from tests.support.chat_templates import OPEN_MODELS, open_chat_template, requires_open_models

MODELS = sorted(path.stem for path in OPEN_MODELS.glob("*.jinja"))

State = Literal["opened", "closed", "free"]
"""Whether the prompt opens the reasoning, closes it, or leaves both to the model."""


class Reasoning(NamedTuple):
    """What a template does."""

    by_itself: State
    """Without an effort."""
    with_effort: State
    """With every effort but none, with which it is always closed."""
    kept: Literal["always", "in a turn", "never"]
    """Which reasoning of earlier answers is written: in a turn, beside calls after the last question."""


EXPECTED: dict[str, Reasoning] = {
    "Apertus-8B-Instruct": Reasoning("free", "free", "never"),
    "Apriel-1.6-15b-Thinker-fixed": Reasoning("opened", "opened", "never"),
    "Bielik-11B-v3.0-Instruct": Reasoning("free", "opened", "always"),
    "ByteDance-Seed-OSS": Reasoning("free", "free", "always"),
    "Cohere2MoE": Reasoning("opened", "opened", "always"),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": Reasoning("closed", "free", "in a turn"),
    "GLM-4.6": Reasoning("free", "free", "in a turn"),
    "GLM-4.7-Flash": Reasoning("opened", "opened", "in a turn"),
    "HuggingFaceTB-SmolLM3-3B": Reasoning("free", "free", "never"),
    "Kimi-K2-Thinking": Reasoning("free", "free", "in a turn"),
    "Kimi-K3": Reasoning("opened", "opened", "always"),
    "LFM2.5-8B-A1B": Reasoning("free", "free", "in a turn"),
    "LFM2.5-Instruct": Reasoning("free", "free", "never"),
    "MiniMax-M2": Reasoning("opened", "opened", "in a turn"),
    "MiniMax-M3": Reasoning("free", "opened", "always"),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": Reasoning("opened", "opened", "in a turn"),
    "NVIDIA-Nemotron-Nano-v2": Reasoning("opened", "opened", "never"),
    "Qwen-QwQ-32B": Reasoning("closed", "opened", "never"),
    "Qwen-Qwen3-0.6B": Reasoning("free", "free", "in a turn"),
    "Qwen3.5-4B": Reasoning("opened", "opened", "in a turn"),
    "Reka-Edge": Reasoning("free", "opened", "in a turn"),
    "Spark2.5": Reasoning("opened", "opened", "always"),
    "StepFun3.5-Flash": Reasoning("opened", "opened", "in a turn"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": Reasoning("opened", "opened", "never"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": Reasoning("closed", "opened", "never"),
    "deepseek-ai-DeepSeek-V3.1": Reasoning("closed", "opened", "never"),
    "deepseek-ai-DeepSeek-V3.2": Reasoning("closed", "opened", "in a turn"),
    "deepseek-ai-DeepSeek-V4": Reasoning("closed", "opened", "in a turn"),
    "deepseek-ai-DeepSeek-V4-Flash-0731": Reasoning("closed", "opened", "in a turn"),
    "google-gemma-4-31B-it": Reasoning("closed", "free", "in a turn"),
    "google-gemma-4-31B-it-interleaved": Reasoning("closed", "free", "in a turn"),
    "ibm-granite-granite-3.3-2B-Instruct": Reasoning("free", "free", "never"),
    "inclusionai-ling-3.0-flash": Reasoning("opened", "opened", "always"),
    "llama-cpp-deepseek-r1": Reasoning("opened", "opened", "never"),
    "muse-glimmer": Reasoning("free", "free", "always"),
    "llama-cpp-rwkv-world": Reasoning("free", "opened", "never"),
    "mistralai-Ministral-3-14B-Reasoning-2512": Reasoning("free", "free", "always"),
    "openai-gpt-oss-120b": Reasoning("free", "free", "in a turn"),
    "openbmb-MiniCPM5-1B": Reasoning("free", "opened", "in a turn"),
    "poolside-Laguna-S-2.1": Reasoning("opened", "opened", "always"),
    "poolside-Laguna-XS-2.1": Reasoning("closed", "opened", "always"),
    "poolside-Laguna-XS.2": Reasoning("closed", "opened", "always"),
    "tencent-Hy3": Reasoning("closed", "opened", "in a turn"),
    "tool_chat_template_apertus": Reasoning("free", "free", "never"),
    "tool_chat_template_deepseekr1": Reasoning("free", "free", "never"),
    "tool_chat_template_deepseekv31": Reasoning("closed", "opened", "never"),
    "tool_chat_template_gemma4": Reasoning("closed", "free", "in a turn"),
    "tool_chat_template_hunyuan_a13b": Reasoning("free", "free", "never"),
    "tool_chat_template_muse_glimmer": Reasoning("free", "free", "always"),
    "unsloth-Apriel-1.5": Reasoning("free", "free", "never"),
    "upstage-Solar-Open-100B": Reasoning("free", "free", "in a turn"),
}
"""All others are for models that do not reason."""

CLOSED_BY_LOW_EFFORTS = {"upstage-Solar-Open-100B"}
"""Templates that let their model reason with a medium or high effort only."""


def _state(template: ChatTemplate, effort: ReasoningEffort | None) -> State:
    prompt = ChatPrompt(messages=(Message(role="user", content="Hi"),), reasoning_effort=effort)
    reasoning = template.render(prompt).parser_spec.reasoning
    return "closed" if reasoning is None else "opened" if reasoning.opened_by_prompt else "free"


def _kept(template: ChatTemplate) -> Literal["always", "in a turn", "never"]:
    question = Message(role="user", content="Well?")
    call = ToolCall("abcdefgh9", "f", "{}")
    calling = Message(role="assistant", content="", reasoning="Hm-9.", tool_calls=(call,))
    result = Message(role="tool", content="Rain.", tool_call_id=call.id)
    answer = Message(role="assistant", content="Yes.", reasoning="Hm-9.")

    def keeps(*messages: Message, tools: ToolOptions | None = None) -> bool:
        prompt = ChatPrompt(messages=(question, *messages), tools=tools, reasoning_effort="high")
        return "Hm-9." in template.render(prompt).text

    if keeps(answer, question):
        return "always"
    return "in a turn" if keeps(calling, result, tools=ToolOptions((Tool("f"),))) else "never"


@requires_open_models
@pytest.mark.parametrize("name", MODELS)
def test_a_template_lets_its_model_reason_and_keeps_reasoning_as_expected(name: str) -> None:
    template = open_chat_template(name)
    assert template.supports_reasoning is (name in EXPECTED)
    if name in EXPECTED:
        expected = EXPECTED[name]
        assert _state(template, None) == expected.by_itself
        assert _state(template, "none") == "closed"
        states = {effort: _state(template, effort) for effort in REASONING_BUDGETS if effort}
        if name in CLOSED_BY_LOW_EFFORTS:
            assert (states.pop("minimal"), states.pop("low")) == ("closed", "closed")
        assert {*states.values()} == {expected.with_effort}
        assert _kept(template) == expected.kept


@requires_open_models
def test_what_is_named_is_there() -> None:
    assert set(EXPECTED) <= set(MODELS)
    assert set(EXPECTED) >= CLOSED_BY_LOW_EFFORTS
