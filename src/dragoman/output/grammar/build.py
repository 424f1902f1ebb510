"""Builds the grammar for a request's answer format and tools."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import msgspec

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
from dragoman.output.element_syntax import ElementSyntax, ValueTypes
from dragoman.output.grammar.channels import ChannelGrammar
from dragoman.output.grammar.elements import element_rules
from dragoman.output.grammar.json_quoting import json_quoted_grammar, json_quoted_regex
from dragoman.output.grammar.keywords import Schema, types_of
from dragoman.output.grammar.lark import client_grammar, compile_error, json_text, quoted, regex
from dragoman.output.grammar.parameters import Parameters, divided_parameters
from dragoman.output.grammar.schema import enforceable_schema
from dragoman.output.grammar.time_limit import MAX_SECONDS, TookTooLong, limited_time
from dragoman.output.grammar.tool_calls import SpecialTokenLookup, ToolCallGrammar, answer_in_element
from dragoman.output.grammar.values import ArgumentRules, argument_rules
from dragoman.output.markup import ParameterMarkup, ToolCallMarkup
from dragoman.output.text_element import TextElement
from dragoman.output.tool_call_parser import ArgumentTypes
from dragoman.output.value_syntax import ValueSyntax

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


_ArgumentSyntax = ParameterMarkup | ValueSyntax | ElementSyntax
"""How arguments are written that are not one JSON value."""


class BuiltGrammar(NamedTuple):
    """The grammar of a whole answer."""

    text: str | None
    """To be enforced with PARSER_LIMITS. None: any text is allowed."""
    unenforced: tuple[str, ...] = ()
    """Keywords of schemas that are not strict which are not enforced: "'contains' at #/properties/a"."""
    strings: ArgumentTypes | None = None
    """What the text of arguments does not show, if they are tagged or elements."""


class _Rule(NamedTuple):
    """The body of a Lark rule, the grammars that it references, and the keywords that it does not enforce."""

    body: str
    definitions: Mapping[str, str] = MappingProxyType({})
    unenforced: tuple[str, ...] = ()
    parameters: Parameters | ArgumentRules | None = None
    """A tool's parameters, if they are tagged or no JSON. Then there is no body."""


def build_grammar(
    response_format: AnswerFormat | None,
    tools: ToolOptions | None,
    markup: ToolCallMarkup | None,
    special_token: SpecialTokenLookup,
    control_tokens: Sequence[int] = (),
    *,
    element: TextElement | None = None,
    reasoning: str = "",
) -> BuiltGrammar:
    """Build the grammar of the whole answer.

    `markup` is how the model writes calls (None: it cannot call tools), and `special_token` returns the id of a text
    that is one token of the model's vocabulary. `control_tokens` are its special tokens but those that end an answer.
    Text is in the `element`, if there is one. `reasoning` begins the reasoning that may stand before it; empty: there
    is none, or the prompt begins it. A format constrains the answer's text, not its calls. Raises BadRequest of
    "response_format" or "tools" for what cannot be enforced as requested.
    """
    with _in_time(_FORMAT):
        answer = _Rule("") if response_format is None else _answer_rule(response_format)
    if markup is not None and markup.in_channels:
        return _in_channels(answer, tools, special_token)
    if tools is None or (markup is None and tools.choice == "auto"):
        if not answer.body:
            return BuiltGrammar(None, answer.unenforced)
        main = f"start: {answer.body}" if element is None else answer_in_element(element, answer.body, special_token)
        return BuiltGrammar(_assemble(main, answer.definitions), answer.unenforced)
    if markup is None:
        raise BadRequest("This model cannot call tools", _TOOLS)
    _check_names(tools, markup)
    rules = _rules_of_tools(tools, markup.parameters or markup.values or markup.elements)
    arguments = {name: rule.parameters or rule.body for name, rule in rules.items()}
    definitions = _definitions(answer, rules)
    if element is not None:
        markup = msgspec.structs.replace(markup, special_tokens=(*markup.special_tokens, *element.special_tokens))

    def grammar(token: SpecialTokenLookup, others: Sequence[int]) -> str:
        calls = ToolCallGrammar(
            markup,
            arguments,
            several=tools.allows_multiple_calls and not markup.one_call,
            special_token=token,
            control_tokens=others,
        )
        if tools.choice != "auto":
            only = calls.only_calls() if element is None else calls.only_calls_with_element(element)
            return _assemble(only, definitions)
        if element is not None:
            return _assemble(calls.calls_with_element(element, answer.body, reasoning), definitions)
        text = calls.calls_or_answer(answer.body) if answer.body else calls.calls_in_text()
        return _assemble(text, definitions)

    _check_together(grammar(lambda _: None, ()))
    return BuiltGrammar(grammar(special_token, control_tokens), _unenforced(answer, rules), _types(rules) or None)


@contextlib.contextmanager
def _in_time(parameter: str) -> Iterator[None]:
    """Raise BadRequest if what the parameter asks for takes too long to be prepared."""
    try:
        with limited_time():
            yield
    except TookTooLong:
        message = f"It takes more than {MAX_SECONDS:g} s to find out how the schemas can be enforced; simplify their "
        raise BadRequest(f"{message}patterns and alternatives", parameter) from None


def _types(rules: Mapping[str, _Rule]) -> dict[str, Mapping[str, bool] | ValueTypes]:
    """Return what a parser must know about the arguments of the tools."""
    types: dict[str, Mapping[str, bool] | ValueTypes] = {}
    for name, rule in rules.items():
        if isinstance(rule.parameters, Parameters):
            types[name] = rule.parameters.strings
        elif rule.parameters is not None and rule.parameters.types is not None:
            types[name] = rule.parameters.types
    return types


def _in_channels(answer: _Rule, tools: ToolOptions | None, special_token: SpecialTokenLookup) -> BuiltGrammar:
    """Build the grammar of an answer in channels. Raises BadRequest."""
    if tools is None and not answer.body:
        return BuiltGrammar(None)
    rules = {} if tools is None else _rules_of_tools(tools)
    definitions = _definitions(answer, rules)

    def grammar(token: SpecialTokenLookup) -> str:
        channels = ChannelGrammar({name: rule.body for name, rule in rules.items()}, token)
        if tools is not None and tools.choice != "auto":
            return _assemble(channels.call(), definitions)
        text = [answer.body] if answer.body else []
        return _assemble(channels.answer_or_call(*text) if rules else channels.answer(*text), definitions)

    _check_together(grammar(lambda _: None))
    return BuiltGrammar(grammar(special_token), _unenforced(answer, rules))


def _check_names(tools: ToolOptions, markup: ToolCallMarkup) -> None:
    """Raise BadRequest for a function whose name means something else in this model's answers."""
    reserved = next((tool.name for tool in tools.callable_tools if tool.name in markup.reserved_names), None)
    if reserved is not None:
        raise BadRequest(
            f"This model cannot call a function named {reserved!r}, which has a meaning of its own", _TOOLS
        )


def _check_together(grammar: str) -> None:
    """Raise BadRequest if the grammar of a whole answer does not compile, although those of its tools do."""
    if problem := compile_error(grammar):
        raise BadRequest(f"The tools cannot be enforced together: {problem}", _TOOLS)


def _unenforced(answer: _Rule, rules: Mapping[str, _Rule]) -> tuple[str, ...]:
    """Return the keywords of the answer's format and of the tools that are not enforced."""
    of_tools = (f"{item} of tool '{name}'" for name, rule in rules.items() for item in rule.unenforced)
    return (*answer.unenforced, *of_tools)


def _definitions(answer: _Rule, rules: Mapping[str, _Rule]) -> dict[str, str]:
    """Return the grammars that the answer's rule and those of the tools reference."""
    of_tools = {name: text for rule in rules.values() for name, text in rule.definitions.items()}
    return {**answer.definitions, **of_tools}


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
            enforced, unenforced = _enforced(schema, strict, _FORMAT, "The schema", only_objects=False)
            return _Rule(json_text(enforced), unenforced=unenforced)
        case RegexFormat(pattern=pattern):
            if problem := compile_error(f"start: {regex(pattern)}"):
                raise BadRequest(f"The regular expression cannot be enforced: {problem}", _FORMAT)
            return _Rule(regex(pattern))
        case GrammarFormat(grammar=text):
            return _Rule("@answer", {"answer": client_grammar(text, _FORMAT)})


def _subject(tool: Tool) -> str:
    return f"The schema of the parameters of tool '{tool.name}'"


def _rules_of_tools(tools: ToolOptions, syntax: _ArgumentSyntax | None = None) -> dict[str, _Rule]:
    """Return the rule for the arguments of each tool that may be called. Raises BadRequest."""
    if not tools.callable_tools:
        raise BadRequest("There is no tool to call", _TOOLS)
    with _in_time(_TOOLS):
        return {
            tool.name: _arguments_rule(tool, syntax, f"arguments_{number}")
            for number, tool in enumerate(tools.callable_tools)
        }


def _arguments_rule(tool: Tool, syntax: _ArgumentSyntax | None, name: str) -> _Rule:
    """Return the rule for a tool's arguments, which are JSON if there is no other `syntax`. Raises BadRequest.

    `name` is for rules of values.
    """
    if tool.text_format is not None:
        return _text_rule(tool, tool.text_format, syntax, name)
    schema: Schema = {}
    unenforced: tuple[str, ...] = ()
    if tool.parameters is not None:
        schema, unenforced = _enforced(tool.parameters, tool.strict, _TOOLS, _subject(tool), only_objects=True)
    if syntax is None:
        return _Rule('"{}"' if tool.parameters is None else json_text(schema), unenforced=unenforced)
    parameters: Parameters | ArgumentRules
    if not isinstance(syntax, ParameterMarkup):
        schema = {"type": "object", "additionalProperties": False} if tool.parameters is None else schema
        parameters = _argument_rules(tool, schema, syntax, name)
    else:
        parameters = _tagged_parameters(tool, schema, syntax)
    further = [f"'{keyword}' at {pointer}" for keyword, pointer in parameters.unenforced]
    return _Rule("", unenforced=tuple(dict.fromkeys([*unenforced, *further])), parameters=parameters)


def _text_rule(tool: Tool, binding: RegexFormat | GrammarFormat, syntax: _ArgumentSyntax | None, name: str) -> _Rule:
    """Return the rule for the arguments of a tool that takes one text. Raises BadRequest."""
    if syntax is not None:
        raise BadRequest(
            f"The grammar of tool '{tool.name}' cannot be enforced in this model's calls, which are not JSON", _TOOLS
        )
    [parameter] = (tool.parameters or {"properties": {"input": {}}})["properties"]
    text = (
        json_quoted_regex(binding.pattern, _TOOLS)
        if isinstance(binding, RegexFormat)
        else json_quoted_grammar(binding.grammar, _TOOLS)
    )
    head, tail = quoted('{"' + parameter + '": "'), quoted('"}')
    return _Rule(f"{head} @{name} {tail}", {name: text})


def _tagged_parameters(tool: Tool, schema: Schema, markup: ParameterMarkup) -> Parameters:
    """Return a tool's parameters. Raises BadRequest for what cannot be enforced or written with tags."""
    wrapper = None if markup.wrapper is None else markup.wrapper[0]
    parameters = divided_parameters(schema, markup.close, wrapper)
    names = [parameter.name for members in parameters.alternatives for parameter in members]
    invalid = [name for name in names if not re.fullmatch(markup.name_pattern, name)]
    _check_parameters(tool, bool(parameters.alternatives), invalid, parameters.unenforced, "a tag for each parameter")
    return parameters


def _argument_rules(tool: Tool, schema: Schema, syntax: ValueSyntax | ElementSyntax, name: str) -> ArgumentRules:
    """Return the rules of a tool's arguments. Raises BadRequest for what cannot be enforced or written."""
    if isinstance(syntax, ValueSyntax):
        rules = argument_rules(schema, syntax, name)
    else:
        rules = element_rules(schema, syntax, name)
    invalid = [name for name in rules.names if not syntax.can_have_argument(name)]
    _check_parameters(tool, bool(rules.rules), invalid, rules.unenforced, "a syntax of their own")
    return rules


def _check_parameters(
    tool: Tool, is_possible: bool, invalid: Sequence[str], unenforced: Sequence[tuple[str, str]], syntax: str
) -> None:
    """Raise BadRequest if no call is possible, names are invalid, or a strict tool has keywords without effect."""
    problem = ""
    if not is_possible:
        problem = "no values fit it in this model's calls"
    elif invalid:
        problem = f"this model's calls cannot have the name {invalid[0]!r}"
    elif unenforced and tool.strict:
        keyword, pointer = unenforced[0]
        problem = f"'{keyword}' at {pointer} is not supported in this model's calls, which have {syntax}"
    if problem:
        raise BadRequest(f"{_subject(tool)} cannot be enforced: {problem}", _TOOLS)


def _enforced(
    schema: object, strict: bool, parameter: str, subject: str, *, only_objects: bool
) -> tuple[Schema, tuple[str, ...]]:
    """Return a schema that llguidance enforces, and the keywords that it omits. Raises BadRequest."""
    omitted: frozenset[str] = frozenset()
    while True:
        rewritten, unenforced = enforceable_schema(
            schema, strict=strict, parameter=parameter, subject=subject, omitted_keywords=omitted
        )
        if only_objects:
            rewritten = _restrict_to_objects(rewritten, parameter, subject)
        problem = compile_error(f"start: {json_text(rewritten)}")
        if not problem:
            return rewritten, unenforced
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
    if "object" not in types_of(schema):
        raise BadRequest(f"{subject} is invalid: 'type' at # must be object", parameter)
    return {**schema, "type": "object"}
