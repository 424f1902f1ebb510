import json
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import JsonObjectFormat, Tool, ToolOptions
from dragoman.output.grammar import build_grammar
from dragoman.output.markup import ToolCallMarkup
from tests.support.grammars import OTHER, SPECIAL, allows, generate, tokens_of, validation_errors
from tests.support.schemas import tools

TAGGED = ToolCallMarkup(
    trigger="<tool_call>",
    call_open="<tool_call>\n",
    call_close="\n</tool_call>",
    separator="\n",
    special_tokens=("<tool_call>", "</tool_call>"),
)
LISTED = ToolCallMarkup(
    trigger="[TOOL_CALLS]",
    section_open="[TOOL_CALLS][",
    separator=", ",
    section_close="]",
    special_tokens=("[TOOL_CALLS]",),
)
BARE = ToolCallMarkup(trigger='{"name": ', only_at_start=True, head_after_name='", "parameters": ', separator="; ")
MARKUPS = st.sampled_from([TAGGED, LISTED, BARE])

WEATHER = Tool(
    "get_weather",
    parameters={
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
CLOCK = Tool("get")
BOTH = ToolOptions((WEATHER, CLOCK))

OSLO = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>'


def no_tokens(text: str) -> None:
    """Return no id, as for a vocabulary without special tokens."""


TOKENS = st.sampled_from([no_tokens, SPECIAL.get])


def grammar_of(
    options: ToolOptions, markup: ToolCallMarkup, special_token: Callable[[str], int | None] = no_tokens
) -> str:
    grammar = build_grammar(None, options, markup, special_token).text
    assert grammar is not None
    return grammar


def chosen(choice: str, **changes: Any) -> ToolOptions:
    return msgspec.structs.replace(BOTH, choice=choice, **changes)


def read_calls(text: str, markup: ToolCallMarkup) -> tuple[list[tuple[str, str]], str]:
    """Return the calls at the beginning of a text, with their arguments as JSON, and the rest of the text."""
    calls = []
    opening = markup.call_open + markup.head_before_name
    text = text.removeprefix(markup.section_open)
    while text.startswith(opening):
        name, text = text.removeprefix(opening).split(markup.head_after_name, 1)
        _, end = json.JSONDecoder().raw_decode(text)
        calls.append((name, text[:end]))
        assert text[end:].startswith(markup.tail + markup.call_close)
        text = text[end:].removeprefix(markup.tail + markup.call_close).removeprefix(markup.separator)
    return calls, text


def check_calls(calls: list[tuple[str, str]], options: ToolOptions) -> None:
    tools = {tool.name: tool for tool in options.callable_tools}
    assert 1 <= len(calls) <= (10**9 if options.allows_multiple_calls else 1)
    for name, arguments in calls:
        parameters = tools[name].parameters
        assert arguments == "{}" if parameters is None else validation_errors(arguments, parameters) == []


@st.composite
def tool_options(draw: st.DrawFn, choices: tuple[str, ...]) -> ToolOptions:
    offered = tuple(draw(st.lists(tools(), min_size=1, max_size=3, unique_by=lambda tool: tool.name)))
    choice: Any = draw(st.sampled_from(choices))
    name = draw(st.sampled_from(offered)).name if choice == "named" else None
    return ToolOptions(offered, choice, name, parallel=draw(st.booleans()))


@settings(max_examples=60)
@given(options=tool_options(("required", "named")), markup=MARKUPS, special_token=TOKENS, seed=st.integers(0, 2**32))
def test_a_forced_answer_is_only_calls_with_valid_arguments(
    options: ToolOptions, markup: ToolCallMarkup, special_token: Callable[[str], int | None], seed: int
) -> None:
    text = generate(grammar_of(options, markup, special_token), Random(seed), 400)
    if text is not None:
        calls, rest = read_calls(text, markup)
        assert rest == markup.section_close
        check_calls(calls, options)


@settings(max_examples=60)
@given(options=tool_options(("auto",)), markup=MARKUPS, special_token=TOKENS, seed=st.integers(0, 2**32))
def test_text_that_begins_as_a_call_continues_as_a_call(
    options: ToolOptions, markup: ToolCallMarkup, special_token: Callable[[str], int | None], seed: int
) -> None:
    text_before = "" if markup.only_at_start else "I'll look. "
    prefix = (
        tokens_of(text_before + markup.trigger)
        if special_token is not no_tokens
        else list((text_before + markup.trigger).encode())
    )
    text = generate(grammar_of(options, markup, special_token), Random(seed), 400, prefix)
    if text is not None:
        calls, rest = read_calls(text.removeprefix(text_before), markup)
        assert markup is TAGGED or rest == markup.section_close
        check_calls(calls, options)


@pytest.mark.parametrize(
    "text", ["", "Hello.", "a < b", "<tool_cal", "{}", OSLO, f"Well: {TIME}", f"a{OSLO}b{TIME}c", OSLO + TIME]
)
def test_text_and_calls_may_alternate(text: str) -> None:
    assert allows(grammar_of(BOTH, TAGGED), text)
    assert allows(grammar_of(BOTH, TAGGED, SPECIAL.get), tokens_of(text))


@pytest.mark.parametrize("text", ["<tool_call>", "a<tool_call>b", OSLO + "<tool_call>x", OSLO.replace("Oslo", "Bonn")])
def test_the_trigger_only_begins_calls(text: str) -> None:
    assert not allows(grammar_of(BOTH, TAGGED), text)
    assert not allows(grammar_of(BOTH, TAGGED, SPECIAL.get), tokens_of(text))


def test_a_trigger_spelled_in_ordinary_tokens_begins_a_call_too() -> None:
    grammar = grammar_of(BOTH, TAGGED, SPECIAL.get)
    assert not allows(grammar, "<tool_call>x")
    assert allows(grammar, [*b"<tool_call>", *tokens_of(TIME.removeprefix("<tool_call>"))])


@pytest.mark.parametrize("text", ["", "{", '{"nam', "Hello.", '{"x": 1}', 'So: {"name": "get"'])
def test_markup_allowed_only_at_the_start_leaves_other_text_free(text: str) -> None:
    assert allows(grammar_of(BOTH, BARE), text)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"name": "get", "parameters": {}}', True),
        ('{"name": "get", "parameters": {}}; {"name": "get", "parameters": {}}', True),
        ('{"name": "get", "parameters": {}} That was it.', False),
        ('{"name": "Ada"}', False),
    ],
)
def test_markup_allowed_only_at_the_start_ends_the_answer(text: str, fits: bool) -> None:
    assert allows(grammar_of(BOTH, BARE), text) is fits


def test_there_is_at_most_one_call_unless_several_are_allowed() -> None:
    for choice in ("auto", "required"):
        grammar = grammar_of(chosen(choice, parallel=False), TAGGED)
        assert allows(grammar, OSLO)
        assert not allows(grammar, f"{OSLO}\n{TIME}")
        assert allows(grammar_of(chosen(choice), TAGGED), f"{OSLO}\n{TIME}")


def test_a_named_choice_is_one_call_of_that_tool() -> None:
    grammar = grammar_of(chosen("named", name="get"), TAGGED)
    assert allows(grammar, TIME)
    assert not any(allows(grammar, text) for text in (OSLO, f"{TIME}\n{TIME}", "Hello.", ""))


def test_a_section_holds_all_calls_and_ends_the_answer() -> None:
    grammar = grammar_of(BOTH, LISTED)
    calls = '[TOOL_CALLS][{"name": "get", "arguments": {}}, {"name": "get_weather", "arguments": {"city": "Rome"}}]'
    assert allows(grammar, calls)
    assert allows(grammar, f"Let me see. {calls}")
    assert not allows(grammar, calls.removesuffix("]"))
    assert not allows(grammar, f"{calls} So.")


def test_a_format_constrains_the_text_but_not_the_calls() -> None:
    grammar = build_grammar(JsonObjectFormat(), BOTH, TAGGED, no_tokens).text
    assert grammar is not None
    assert allows(grammar, '{"a": 1}')
    assert allows(grammar, OSLO)
    assert not allows(grammar, "Hello.")
    assert not allows(grammar, f"Hello. {OSLO}")
    assert build_grammar(JsonObjectFormat(), chosen("required"), TAGGED, no_tokens).text == grammar_of(
        chosen("required"), TAGGED
    )


def test_a_rejected_schema_is_named_by_its_tool() -> None:
    strict = Tool("sort", parameters={"properties": {"of": {"uniqueItems": True}}}, strict=True)
    with pytest.raises(BadRequest, match="'sort' cannot be enforced: 'uniqueItems' at #/properties/of") as refusal:
        build_grammar(None, ToolOptions((CLOCK, strict)), TAGGED, no_tokens)
    assert refusal.value.parameter == "tools"
    lenient = msgspec.structs.replace(strict, strict=False)
    built = build_grammar(None, ToolOptions((CLOCK, lenient)), TAGGED, no_tokens)
    assert built.unenforced == ("'uniqueItems' at #/properties/of of tool 'sort'",)
    assert allows(
        grammar_of(ToolOptions((lenient,), "required"), BARE), '{"name": "sort", "parameters": {"of": [1, 1]}}'
    )


def test_arguments_are_an_object_even_if_the_parameters_allow_other_types() -> None:
    grammar = grammar_of(ToolOptions((Tool("f", parameters={}),), "required"), BARE)
    assert allows(grammar, '{"name": "f", "parameters": {"a": []}}')
    assert not allows(grammar, '{"name": "f", "parameters": [1]}')
    with pytest.raises(BadRequest, match="must be object"):
        grammar_of(ToolOptions((Tool("f", parameters={"type": "string"}),)), BARE)


def test_a_model_without_tool_calls_has_no_grammar_or_is_refused() -> None:
    assert build_grammar(None, BOTH, None, no_tokens).text is None
    with pytest.raises(BadRequest, match="cannot call tools"):
        build_grammar(None, chosen("required"), None, no_tokens)


def with_free_tokens(markup: ToolCallMarkup, **changes: Any) -> str:
    grammar = build_grammar(
        None, msgspec.structs.replace(BOTH, **changes), markup, SPECIAL.get, [*SPECIAL.values(), OTHER]
    )
    assert grammar.text is not None
    return grammar.text


@pytest.mark.parametrize("markup", [TAGGED, LISTED, BARE])
@pytest.mark.parametrize(
    "tokens", [[OTHER], [*b"So: ", OTHER, *b"hm", OTHER, OTHER, *b"."], [OTHER, *b'{"name": "get"']]
)
def test_free_text_may_have_control_tokens_of_other_uses(markup: ToolCallMarkup, tokens: list[int]) -> None:
    assert allows(with_free_tokens(markup), tokens)
    assert not allows(grammar_of(BOTH, markup, SPECIAL.get), tokens)
    assert not allows(with_free_tokens(markup, choice="required"), tokens)


def test_a_call_after_control_tokens_is_enforced_as_any_other() -> None:
    for trigger in (tokens_of("<tool_call>"), list(b"<tool_call>")):
        before = [*b"a", OTHER, *b"b", *trigger]
        call = b'\n{"name": "get", "arguments": {}}\n'
        assert allows(with_free_tokens(TAGGED), [*before, *call, *tokens_of("</tool_call>"), OTHER, *b"c"])
        assert not allows(with_free_tokens(TAGGED), [*before, *b" b"])
        assert not allows(with_free_tokens(TAGGED), [*before, OTHER])


def test_a_special_token_may_stand_before_calls_and_nothing_else_may_follow_it() -> None:
    markup = msgspec.structs.replace(BARE, optional_prefix="[TOOL_CALLS]", special_tokens=("[TOOL_CALLS]",))
    call = b'{"name": "get", "parameters": {}}'
    for choice in ("auto", "required"):
        grammar = with_free_tokens(markup, choice=choice)
        assert allows(grammar, [SPECIAL["[TOOL_CALLS]"], *call])
        assert allows(grammar, list(call))
        assert not allows(grammar, [SPECIAL["[TOOL_CALLS]"], *b"print(1)"])
