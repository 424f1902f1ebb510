"""Builds the grammar for a request's answer format and tools."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from dragoman.core.errors import BadRequest
from dragoman.core.request import (
    AnswerFormat,
    GrammarFormat,
    JsonObjectFormat,
    JsonSchemaFormat,
    RegexFormat,
    Tool,
    ToolOptions,
)
from dragoman.output.grammar.channels import ChannelGrammar
from dragoman.output.grammar.keywords import Schema
from dragoman.output.grammar.lark import client_grammar, compile_error, json_text, regex
from dragoman.output.grammar.schema import enforceable_schema
from dragoman.output.grammar.tool_calls import SpecialTokenLookup, ToolCallGrammar
from dragoman.output.markup import ToolCallMarkup

_FORMAT = "response_format"
_TOOLS = "tools"
"""Parameters that errors name."""

_REFUSED_BY_LLGUIDANCE = {
    "oneOf constraints": (("oneOf",), "two of its options may fit the same value"),
    "are not disjoint": (("patternProperties", "additionalProperties"), "two of its patterns may fit the same name"),
    "min/maxProperties": (("minProperties", "maxProperties"), "it is enforced only where all properties are required"),
    "circular references": (("$ref",), "it leads back to itself and has other keywords beside it"),
}
"""Text in llguidance's error → the keywords that it cannot enforce there, and why."""


class BuiltGrammar(NamedTuple):
    """The grammar of a whole answer."""

    text: str | None
    """To be enforced with PARSER_LIMITS. None: any text is allowed."""
    unenforced: tuple[str, ...] = ()
    """Keywords of schemas that are not strict which are not enforced: "'contains' at #/properties/a"."""


class _Rule(NamedTuple):
    """The body of a Lark rule, the grammars that it references, and the keywords that it does not enforce."""

    body: str
    definitions: Mapping[str, str] = MappingProxyType({})
    unenforced: tuple[str, ...] = ()


def build_grammar(
    response_format: AnswerFormat | None,
    tools: ToolOptions | None,
    markup: ToolCallMarkup | None,
    special_token: SpecialTokenLookup,
    control_tokens: Sequence[int] = (),
) -> BuiltGrammar:
    """Build the grammar of the whole answer.

    `markup` is how the model writes calls (None: it cannot call tools), and `special_token` returns the id of a text
    that is one token of the model's vocabulary. `control_tokens` are its special tokens but those that end an answer.
    A format constrains the answer's text, not its calls. Raises BadRequest of "response_format" or "tools" for what
    cannot be enforced as requested.
    """
    answer = _Rule("") if response_format is None else _answer_rule(response_format)
    if markup is not None and markup.in_channels:
        return _in_channels(answer, tools, special_token)
    if tools is None or (markup is None and tools.choice == "auto"):
        text = _assemble(f"start: {answer.body}", answer.definitions) if answer.body else None
        return BuiltGrammar(text, answer.unenforced)
    if markup is None:
        raise BadRequest("This model cannot call tools", _TOOLS)
    rules = {tool.name: _arguments_rule(tool) for tool in tools.callable_tools}
    arguments = {name: rule.body for name, rule in rules.items()}
    if not arguments:
        raise BadRequest("There is no tool to call", _TOOLS)

    def grammar(token: SpecialTokenLookup, others: Sequence[int]) -> str:
        calls = ToolCallGrammar(
            markup,
            arguments,
            several=tools.allows_multiple_calls,
            special_token=token,
            control_tokens=others,
        )
        if tools.choice != "auto":
            return calls.only_calls()
        if not answer.body:
            return calls.calls_in_text()
        return _assemble(calls.calls_or_answer(answer.body), answer.definitions)

    if problem := compile_error(grammar(lambda _: None, ())):
        raise BadRequest(f"The tools cannot be enforced together: {problem}", _TOOLS)
    return BuiltGrammar(grammar(special_token, control_tokens), answer.unenforced + _of_tools(rules))


def _in_channels(answer: _Rule, tools: ToolOptions | None, special_token: SpecialTokenLookup) -> BuiltGrammar:
    """Build the grammar of an answer in channels. Raises BadRequest."""
    if tools is None and not answer.body:
        return BuiltGrammar(None)
    rules = {} if tools is None else {tool.name: _arguments_rule(tool) for tool in tools.callable_tools}
    if tools is not None and not rules:
        raise BadRequest("There is no tool to call", _TOOLS)

    def grammar(token: SpecialTokenLookup) -> str:
        channels = ChannelGrammar({name: rule.body for name, rule in rules.items()}, token)
        if tools is not None and tools.choice != "auto":
            return channels.call()
        text = [answer.body] if answer.body else []
        return _assemble(channels.answer_or_call(*text) if rules else channels.answer(*text), answer.definitions)

    if problem := compile_error(grammar(lambda _: None)):
        raise BadRequest(f"The tools cannot be enforced together: {problem}", _TOOLS)
    return BuiltGrammar(grammar(special_token), answer.unenforced + _of_tools(rules))


def _of_tools(rules: Mapping[str, _Rule]) -> tuple[str, ...]:
    return tuple(f"{item} of tool '{name}'" for name, rule in rules.items() for item in rule.unenforced)


def _assemble(main: str, definitions: Mapping[str, str]) -> str:
    """Combine `main` with the grammars that it references as @name."""
    others = [{"name": name, "lark_grammar": text} for name, text in definitions.items()]
    return json.dumps({"grammars": [{"lark_grammar": main}, *others]}) if others else main


def _answer_rule(response_format: AnswerFormat) -> _Rule:
    """Return the rule for the answer's text. Raises BadRequest."""
    match response_format:
        case JsonObjectFormat():
            return _Rule(json_text({"type": "object"}))
        case JsonSchemaFormat(schema=schema, strict=strict):
            return _json_rule(schema, strict, _FORMAT, "The schema", only_objects=False)
        case RegexFormat(pattern=pattern):
            if problem := compile_error(f"start: {regex(pattern)}"):
                raise BadRequest(f"The regular expression cannot be enforced: {problem}", _FORMAT)
            return _Rule(regex(pattern))
        case GrammarFormat(grammar=text):
            return _Rule("@answer", {"answer": client_grammar(text, _FORMAT)})


def _arguments_rule(tool: Tool) -> _Rule:
    """Return the Lark rule for a tool's arguments. Raises BadRequest."""
    if tool.parameters is None:
        return _Rule('"{}"')
    subject = f"The schema of the parameters of tool '{tool.name}'"
    return _json_rule(tool.parameters, tool.strict, _TOOLS, subject, only_objects=True)


def _json_rule(schema: object, strict: bool, parameter: str, subject: str, *, only_objects: bool) -> _Rule:
    """Return the Lark rule for JSON that is valid under the schema. Raises BadRequest."""
    omitted: frozenset[str] = frozenset()
    while True:
        rewritten, unenforced = enforceable_schema(
            schema, strict=strict, parameter=parameter, subject=subject, omitted_keywords=omitted
        )
        if only_objects:
            rewritten = _restrict_to_objects(rewritten, parameter, subject)
        text = json_text(rewritten)
        problem = compile_error(f"start: {text}")
        if not problem:
            return _Rule(text, unenforced=unenforced)
        keywords, reason = next(
            (explanation for error_text, explanation in _REFUSED_BY_LLGUIDANCE.items() if error_text in problem),
            ((), ""),
        )
        if not keywords:
            raise BadRequest(f"{subject} cannot be enforced: {problem}", parameter)
        if strict or omitted.issuperset(keywords) or "$ref" in keywords:
            raise BadRequest(
                f"{subject} cannot be enforced: '{keywords[0]}' is not supported here: {reason}", parameter
            )
        omitted |= frozenset(keywords)


def _restrict_to_objects(schema: Schema, parameter: str, subject: str) -> Schema:
    """Restrict the schema to objects. Raises BadRequest if it excludes them."""
    if isinstance(schema, bool):
        return {"type": "object"}
    types = schema.get("type", "object")
    if "object" not in ([types] if isinstance(types, str) else types):
        raise BadRequest(f"{subject} is invalid: 'type' at # must be object", parameter)
    return {**schema, "type": "object"}
