"""Every family matches its templates, and writes calls in messages as they are parsed from answers."""

import functools
import itertools
import json
import re
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import ChatPrompt, Message, Tool, ToolCall, ToolOptions
from dragoman.output.grammar import build_grammar
from dragoman.output.markup import ToolFormatName
from dragoman.output.parts import ContentText, ToolCallArguments, ToolCallStart
from dragoman.output.tool_call_parser import ArgumentTypes, ToolCallParser
from dragoman.prompt.chatml import CHATML
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
from dragoman.prompt.template import ChatTemplate
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import write_calls
from tests.support.chat_templates import (
    ALTERNATING,
    OPEN_MODELS,
    SMOLLM3,
    SWITCHABLE_REASONING,
    UNKNOWN_TOOLS,
    WRITING,
    open_chat_template,
    open_model_template,
    requires_open_models,
)
from tests.support.element_types import types_of
from tests.support.grammars import SPECIAL, generate, tokens_of, validation_errors
from tests.support.output_parts import parse, tool_call_parts
from tests.support.schemas import FUNCTION_NAME_CHARACTERS

FAMILIES: list[tuple[ToolFormatName, str]] = [
    *WRITING,
    ("hermes", SMOLLM3),
    ("generic", UNKNOWN_TOOLS),
    ("generic", ALTERNATING),
    ("generic", CHATML),
]

TOOLS = ToolOptions((Tool("get_weather", "The weather of a city.", {"type": "object"}), Tool("get-time")))
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 5}, "days": {"enum": [1, 2]}},
    "required": ["city"],
    "additionalProperties": False,
}
CHOSEN = ToolOptions((Tool("get_weather", parameters=WEATHER), Tool("get-time")))
NAMES = st.text(FUNCTION_NAME_CHARACTERS, min_size=1, max_size=64)
ARGUMENTS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters='\r\n<>"'), min_size=1, max_size=8),
    st.text() | st.integers() | st.lists(st.booleans()),
    max_size=3,
)


@functools.cache
def template_of(source: str) -> ChatTemplate:
    """Return a template whose format is found once, which takes longer than a test may with a slow machine."""
    return ChatTemplate(source, bos="", eos="")


def test_every_family_is_recognised_by_its_templates() -> None:
    for name, source in FAMILIES:
        assert ChatTemplate(source, bos="", eos="").tool_format == name


@pytest.mark.parametrize(
    "source",
    [
        SWITCHABLE_REASONING,
        "{% for message in messages %}<tool_call>{% endfor %}",
        "{{ tools }}<tool_call><function={{ name }}><parameter=a>",
        "{{ tools }}<tool_call>f<arg_key>a</arg_key>",
        "{{ tools }}[TOOL_CALLS]f[ARGS]{}",
        "{{ messages[0].tool_calls }}<|python_tag|>",
    ],
)
def test_a_template_that_writes_calls_in_another_way_or_no_tools_at_all_is_generic(source: str) -> None:
    assert ChatTemplate(source, bos="", eos="").tool_format == "generic"


@pytest.mark.parametrize(("name", "source"), FAMILIES)
@settings(max_examples=30)
@given(st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=3, unique_by=lambda function: function[0]))
def test_parsed_calls_are_written_back_unchanged(
    name: ToolFormatName, source: str, functions: list[tuple[str, dict[str, object]]]
) -> None:
    values = FORMATS[name].markup.values
    if values is not None:  # which have fewer names
        functions = [
            (function, {key: value for key, value in arguments.items() if values.bare_name(key, in_object=False)})
            for function, arguments in functions
        ]
    template = template_of(source)
    question = (Message(role="system", content="Be brief."), Message(role="user", content="Well?"))
    spec = template.render(ChatPrompt(messages=question, tools=TOOLS)).parser_spec
    assert spec.tool_format == name

    calls = tuple(
        ToolCall(f"call_{number:024}", function, json.dumps(arguments, ensure_ascii=False))
        for number, (function, arguments) in enumerate(functions)
    )
    answer = write_calls(FORMATS[name].markup, calls)
    strings = {
        function: {key: False for key, value in arguments.items() if isinstance(value, str)}
        for function, arguments in functions
    }
    parser = build_parser(spec, strings=strings)
    assert parser is not None
    reasoning = spec.reasoning
    before = "" if reasoning is None or not reasoning.opened_by_prompt else reasoning.closing
    assert parse(parser, before, *answer) == [
        part for index, call in enumerate(calls) for part in tool_call_parts(index, call.name, call.arguments)
    ]

    results = tuple(Message(role="tool", content=f"<{call.id}>", tool_call_id=call.id) for call in calls)
    prompt = template.render(
        ChatPrompt(messages=(*question, Message(role="assistant", content="", tool_calls=calls), *results), tools=TOOLS)
    ).text
    # Llama 3 has a message for each call; the others have all calls in one message, as in the answer.
    for written in [write_calls(FORMATS[name].markup, [call]) for call in calls] if name == "llama3" else [answer]:
        assert written in prompt
    positions = [prompt.index(result.text) for result in results]
    assert positions == sorted(positions)


@pytest.mark.parametrize(("name", "source"), FAMILIES)
def test_every_function_is_shown_to_the_model(name: ToolFormatName, source: str) -> None:
    prompt = ChatPrompt(
        messages=(Message(role="system", content="Be brief."), Message(role="user", content="Well?")), tools=TOOLS
    )
    text = ChatTemplate(source, bos="", eos="").render(prompt).text
    assert '{"name": "get_weather", "description": "The weather of a city.", "parameters": {"type": "object"}}' in text
    assert "get-time" in text
    assert "Be brief." in text
    assert "@tools" not in text


@pytest.mark.parametrize(("name", "source"), FAMILIES)
def test_earlier_calls_are_written_even_if_nothing_may_be_called_now(name: ToolFormatName, source: str) -> None:
    calls = (ToolCall("call_1", "get_weather", "{}"),)
    messages = (
        Message(role="user", content="Well?"),
        Message(role="assistant", content="", tool_calls=calls),
        Message(role="tool", content="Rain.", tool_call_id="call_1"),
    )
    rendered = ChatTemplate(source, bos="", eos="").render(ChatPrompt(messages=messages))
    assert write_calls(FORMATS[name].markup, calls) in rendered.text
    assert "Rain." in rendered.text
    assert rendered.parser_spec.tool_format is None


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=8)
@given(
    choice=st.sampled_from(
        [
            msgspec.structs.replace(CHOSEN, choice="auto"),
            msgspec.structs.replace(CHOSEN, choice="required"),
            msgspec.structs.replace(CHOSEN, choice="required", allowed=("get-time",)),
            msgspec.structs.replace(CHOSEN, choice="auto", allowed=("get_weather",)),
            msgspec.structs.replace(CHOSEN, choice="named", name="get_weather"),
            msgspec.structs.replace(CHOSEN, choice="named", name="get-time"),
        ]
    ),
    several=st.booleans(),
    has_special_tokens=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_what_is_enforced_is_what_is_parsed(
    name: ToolFormatName, choice: ToolOptions, several: bool, has_special_tokens: bool, seed: int
) -> None:
    options = msgspec.structs.replace(choice, parallel=several)
    markup = FORMATS[name].markup
    grammar = build_grammar(None, options, markup, SPECIAL.get if has_special_tokens else lambda _: None)
    assert grammar.text is not None
    begun = _beginning(name, options.callable_tools[0].name, has_special_tokens) if options.choice == "auto" else []
    text = generate(grammar.text, Random(seed), 300, begun)
    if text is None:
        return
    spec = OutputParserSpec(name, in_channels=markup.in_channels)
    parser = build_parser(spec, "whole answer", grammar.strings)
    assert parser is not None
    parts = parse(parser, *text)
    calls = [part.name for part in parts if isinstance(part, ToolCallStart)]
    one_call = markup.one_call or markup.in_channels or not options.allows_multiple_calls
    assert 1 <= len(calls) <= (1 if one_call else 10**9)
    assert set(calls) <= {tool.name for tool in options.callable_tools}
    for start, part in itertools.pairwise(parts):
        if isinstance(start, ToolCallStart) and isinstance(part, ToolCallArguments):
            assert part.text == "{}" if start.name == "get-time" else validation_errors(part.text, WEATHER) == []
    assert options.choice == "auto" or not [part for part in parts if isinstance(part, ContentText)]


def _beginning(name: ToolFormatName, tool: str, has_special_tokens: bool) -> list[int]:
    """Return the tokens after which an answer becomes a call."""
    markup = FORMATS[name].markup
    text = markup.trigger
    if markup.text_cannot_begin_with:  # a text may begin with the trigger
        text = f"{markup.section_open}{markup.head(tool)}"
    elif markup.trigger_has_name:
        text = f"{markup.call_open}{markup.head(tool)}"
    elif markup.in_channels:
        text = "<|channel|>commentary to"
    return tokens_of(text) if has_special_tokens else list(text.encode())


EXPECTED_FAMILIES: dict[str, ToolFormatName] = {
    "Apertus-8B-Instruct": "apertus",
    "Apriel-1.6-15b-Thinker-fixed": "tool_calls_list",
    "Bielik-11B-v3.0-Instruct": "hermes",
    "Cohere2MoE": "command_r7b",
    "CohereForAI-c4ai-command-r-plus-tool_use": "command_r",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command_r7b",
    "GigaChat3-10B-A1.8B": "gigachat3",
    "GigaChat3.1-10B-A1.8B": "gigachat",
    "MiMo-VL": "hermes",
    "MiniMax-M1": "tool_calls_lines",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral_call_id",
    "NVIDIA-Nemotron-Nano-v2": "nemotron",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "qwen3_coder",
    "ByteDance-Seed-OSS": "seed_oss",
    "GLM-4.6": "glm45",
    "GLM-4.7-Flash": "glm47",
    "MiniMax-M2": "minimax_m2",
    "openbmb-MiniCPM5-1B": "minicpm5",
    "Qwen3-Coder": "qwen3_coder",
    "Spark2.5": "glm47",
    "deepseek-ai-DeepSeek-V3.2": "deepseek_v32",
    "deepseek-ai-DeepSeek-V4": "deepseek_v4",
    "deepseek-ai-DeepSeek-V4-Flash-0731": "deepseek_v4",
    "inclusionai-ling-3.0-flash": "ling3",
    "poolside-Laguna-S-2.1": "glm47",
    "poolside-Laguna-XS-2.1": "glm45",
    "poolside-Laguna-XS.2": "glm45",
    "tencent-Hy3": "hunyuan3",
    "Qwen3.5-4B": "qwen3_coder",
    "StepFun3.5-Flash": "qwen3_coder",
    "tool_chat_template_qwen3coder": "qwen3_coder",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "deepseek-ai-DeepSeek-V3.1": "deepseek_v31",
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "ibm-granite-granite-4.0": "hermes",
    "meetkai-functionary-medium-v3.1": "functionary_v31",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3",
    "meta-llama-Llama-3.3-70B-Instruct": "llama3",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral_args",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
    "moonshotai-Kimi-K2": "kimi_k2",
    "Kimi-K2-Instruct": "kimi_k2",
    "Kimi-K2-Thinking": "kimi_k2",
    "Kimi-K3": "kimi_k3",
    "muse-glimmer": "muse_glimmer",
    "tool_chat_template_muse_glimmer": "muse_glimmer",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek_v3",
    "tool_chat_template_deepseekr1": "deepseek_v3",
    "llama-cpp-deepseek-r1": "deepseek_v3",
    "tool_chat_template_deepseekv3": "deepseek_v3",
    "tool_chat_template_granite_20b_fc": "granite_20b",
    "tool_chat_template_hunyuan_a13b": "tool_calls_list",
    "tool_chat_template_internlm2_tool": "internlm2",
    "tool_chat_template_llama3.2_pythonic": "pythonic",
    "tool_chat_template_llama4_pythonic": "pythonic",
    "tool_chat_template_gemma3_pythonic": "gemma3",
    "tool_chat_template_gemma4": "gemma4",
    "google-gemma-4-31B-it": "gemma4",
    "google-gemma-4-31B-it-interleaved": "gemma4",
    "tool_chat_template_functiongemma": "functiongemma",
    "tool_chat_template_glm4": "glm4",
    "LFM2-8B-A1B": "lfm2",
    "LFM2.5-8B-A1B": "lfm2",
    "LFM2.5-Instruct": "lfm2",
    "tool_chat_template_llama4_json": "llama3",
    "tool_chat_template_phi4_mini": "functools",
    "tool_chat_template_toolace": "pythonic",
    "tool_chat_template_xlam_llama": "xlam",
    "tool_chat_template_xlam_qwen": "xlam",
    "unsloth-mistral-Devstral-Small-2507": "mistral_args",
    "openai-gpt-oss-120b": "harmony",
    "upstage-Solar-Open-100B": "solar",
    "MiniMax-M3": "minimax_m3",
    "unsloth-Apriel-1.5": "tool_calls_list",
    "meetkai-functionary-medium-v3.2": "functionary_v32",
}


WITHOUT_TOOLS = {
    "HuggingFaceTB-SmolLM3-3B",
    "google-gemma-2-2b-it",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
    "template_alpaca",
    "template_chatglm",
    "template_chatglm2",
    "template_chatml",
    "template_falcon",
    "template_falcon_180b",
    "template_inkbot",
    "template_teleflm",
}
"""Templates without a format of their own."""


@requires_open_models
def test_only_templates_without_tools_are_generic() -> None:
    sources = {path.stem: open_model_template(path.stem) for path in OPEN_MODELS.glob("*.jinja")}
    assert {name for name in sources if open_chat_template(name).tool_format == "generic"} == WITHOUT_TOOLS
    assert not [name for name in WITHOUT_TOOLS if re.search(r"\btools\b|tool_calls", sources[name])]


@requires_open_models
@pytest.mark.parametrize(("model", "family"), EXPECTED_FAMILIES.items())
def test_the_templates_of_open_models_are_of_their_families(model: str, family: ToolFormatName) -> None:
    assert open_chat_template(model).tool_format == family


@requires_open_models
@pytest.mark.parametrize(
    ("model", "family"),
    [
        (model, family)
        for model, family in EXPECTED_FAMILIES.items()
        if FORMATS[family].markup.parameters or FORMATS[family].markup.values or FORMATS[family].markup.elements
    ],
)
def test_the_templates_of_open_models_write_arguments_that_are_no_json_as_they_are_parsed(
    model: str, family: ToolFormatName
) -> None:
    template = open_chat_template(model)
    call = ToolCall("call_1", "get_weather", '{"city": "a\\n <b", "days": 3}')
    messages = (
        Message(role="user", content="Well?"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="Rain.", tool_call_id="call_1"),
    )
    text = template.render(ChatPrompt(messages=messages, tools=CHOSEN)).text
    answer = write_calls(FORMATS[family].markup, [call])
    assert answer in text
    assert text.count("Rain.") == 1
    types: ArgumentTypes = {"get_weather": {"city": False}}
    if FORMATS[family].markup.elements is not None:
        types = {"get_weather": types_of(json.loads(call.arguments))}
    parser = ToolCallParser(FORMATS[family].syntax, strings=types)
    assert parse(parser, *answer) == tool_call_parts(0, call.name, call.arguments)


def test_a_template_that_writes_calls_but_no_tools_gets_them_in_the_system_message() -> None:
    source = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls or [] %}<TOOLCALL>["
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}]</TOOLCALL>'
        "{% endfor %}{% endfor %}"
    )
    template = ChatTemplate(source, bos="", eos="")
    assert template.tool_format == "nemotron"
    text = template.render(ChatPrompt(messages=(Message(role="user", content="Well?"),), tools=TOOLS)).text
    assert text.startswith("<|system|>You may call these functions")
    assert '"name": "get_weather"' in text
    assert '<TOOLCALL>[{"name": "name_of_the_function", "arguments": {' in text


def test_a_template_that_leaves_system_messages_out_gets_tools_in_the_user_message() -> None:
    source = "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    prompt = ChatPrompt(
        messages=(Message(role="system", content="Be brief."), Message(role="user", content="Well?")), tools=TOOLS
    )
    text = ChatTemplate(source, bos="", eos="").render(prompt).text
    assert text.startswith("<|user|>Be brief.")
    assert '"name": "get_weather"' in text
    plain = msgspec.structs.replace(prompt, tools=None)
    assert ChatTemplate(source, bos="", eos="").render(plain).text == "<|user|>Be brief.\n\nWell?"
