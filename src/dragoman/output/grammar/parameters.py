"""Divides a tool's parameters into single ones, for calls that have a tagged value for each parameter.

A value that can only be a string, or null, is written as it is, so its schema becomes a regular expression. All other
values are JSON under their schemas. Properties that the schema does not name are not generated.
"""

import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dragoman.output.grammar.keywords import TYPES, Node, Schema, names_of, types_of
from dragoman.output.grammar.lark import TOO_COMPLEX, compile_error, json_text, matching_texts, quoted
from dragoman.output.grammar.raw_strings import (
    format_pattern,
    length_pattern,
    not_beginning_with,
    searching_pattern,
    without,
)

_MAX_ALTERNATIVES: Final = 32
_MAX_DEPTH: Final = 20
_NOT_NULL: Final = "~/null/"
"""For a string of which the parser would read this text as null, since it is null in another alternative."""

_ROOT_REFERENCE: Final = '"$ref": "#"'
_OBJECT_KEYWORDS: Final = ("properties", "patternProperties", "additionalProperties", "required", "maxProperties")


class Parameter(NamedTuple):
    """One parameter, a string or a value in JSON. One that is `nullable` may be both."""

    name: str
    required: bool
    text: str | None = None
    """The Lark terminal of a string."""
    json: str = ""
    """The Lark rule of a value in JSON."""
    nullable: bool = False
    """Whether it is a string in other calls, but may be null. Then `json` is null."""
    kinds: frozenset[str] = frozenset()
    """The types of the value in JSON. Integers are numbers."""


class Parameters(NamedTuple):
    """The parameters of a tool."""

    alternatives: tuple[tuple[Parameter, ...], ...]
    """Sets of parameters of which a call has one, in their order. Empty: no call is valid."""
    strings: Mapping[str, bool]
    """The names of those that are strings → whether they may be null instead."""
    unenforced: tuple[tuple[str, str], ...]
    """Keywords that are not enforced, each with its pointer or an empty text."""


def divided_parameters(schema: Schema, close: str, wrapper: str | None = None) -> Parameters:
    """Divide a schema of objects from grammar.schema. `close` is the text that ends a string.

    `wrapper`: the beginning of strings that are written in a wrapper. Those with keywords are written without it.
    """
    return SchemaDivider(schema, close, wrapper).divide(schema)


class SchemaDivider:
    """Finds what a schema says about single properties, items and scalar values.

    What it cannot find is noted as not enforced.
    """

    def __init__(self, root: Schema, close: str, wrapper: str | None = None) -> None:
        self._without_close = without(close)
        self._unwrapped = [] if wrapper is None else [not_beginning_with(wrapper)]
        members = root if isinstance(root, dict) else {}
        definitions = members.get("$defs", {})
        self._schemas: dict[str, Schema] = {f"#/$defs/{name}": schema for name, schema in definitions.items()}
        self._schemas["#"] = root
        self._definitions = definitions
        if _ROOT_REFERENCE in json.dumps(root):
            self._definitions = {
                **definitions,
                "root": {key: value for key, value in members.items() if key != "$defs"},
            }
        self._unenforced: list[tuple[str, str]] = []

    def divide(self, root: Schema) -> Parameters:
        combined = [self._combined(parts) for parts in self._flattened(root)]
        alternatives = [members for members in combined if members is not None]
        schemas: dict[str, list[Schema]] = {}
        for members in alternatives:
            for name, _required, schema in members:
                schemas.setdefault(name, []).append(schema)
        strings = {
            name: any(self._allows(schema, None) for schema in of_name)
            for name, of_name in schemas.items()
            if "string" in set().union(*map(self._kinds, of_name)) <= {"string", "null"}
        }
        written = [
            parameters for members in alternatives if (parameters := self._parameters(members, strings)) is not None
        ]
        unenforced = tuple(dict.fromkeys(self._unenforced))
        return Parameters(tuple(dict.fromkeys(written)), strings, unenforced)

    def _parameters(
        self, members: Iterable[tuple[str, bool, Schema]], strings: Mapping[str, bool]
    ) -> tuple[Parameter, ...] | None:
        """Return the parameters of one alternative; None if a required one has no value."""
        written: list[Parameter] = []
        for name, required, schema in members:
            if name not in strings:
                kinds = frozenset("number" if kind == "integer" else kind for kind in self._kinds(schema))
                written.append(Parameter(name, required, json=self._json(schema), kinds=kinds))
                continue
            nullable = self._allows(schema, None)
            never_null = [_NOT_NULL] if strings[name] and not nullable else []
            terminal = self._terminal(schema, f"#/properties/{name}", never_null)
            if terminal is not None or nullable:
                null = json_text({"type": "null"}) if nullable else ""
                kinds = frozenset({"null"})
                written.append(Parameter(name, required, text=terminal, json=null, nullable=nullable, kinds=kinds))
            elif required:
                return None
        return tuple(written)

    def _terminal(self, schema: Schema, pointer: str, further: Sequence[str]) -> str | None:
        """Return a terminal for the strings that are valid and can be written; None if there are none."""
        terminals = self._terminals(schema, pointer)
        if terminals is None:
            return None
        terminals = [*terminals, *further]
        if not terminals:
            return self._without_close
        terminal = " & ".join([self._without_close, *self._unwrapped, *dict.fromkeys(terminals)])
        problem = compile_error(f"start: TEXT\nTEXT: {terminal}")
        if problem == TOO_COMPLEX:
            self._unenforced.append(("pattern", pointer))
            return self._without_close
        return None if problem else terminal

    # Objects

    def _flattened(
        self, schema: Schema, depth: int = 0, *, keywords: Sequence[str] = _OBJECT_KEYWORDS
    ) -> list[tuple[Node, ...]]:
        """Return alternatives, each of schemas without combining keywords that hold together.

        Each has these keywords, which are those of objects or of arrays.
        """
        if isinstance(schema, bool):
            return [()] if schema else []
        is_object = keywords is _OBJECT_KEYWORDS
        kind, python_type = ("object", dict) if is_object else ("array", list)
        if kind not in types_of(schema):
            return []
        if not all(any(isinstance(value, python_type) for value in values) for values in listed_values(schema)):
            return []
        if is_object:
            self._report_counts(schema)
        self._unenforced += [(keyword, "#") for keyword in ("const", "enum", "oneOf") if keyword in schema]
        if depth > _MAX_DEPTH:
            self._unenforced.append(("$ref", "#"))
            return [()]
        alternatives: list[tuple[Node, ...]] = [({key: schema[key] for key in keywords if key in schema},)]
        flattened = functools.partial(self._flattened, depth=depth + 1, keywords=keywords)
        further = [flattened(part) for part in schema.get("allOf", ())]
        if "$ref" in schema:
            further.append(flattened(self._schemas[schema["$ref"]]))
        if "anyOf" in schema:
            further.append([parts for option in schema["anyOf"] for parts in flattened(option)])
        for options in further:
            if len(options) * len(alternatives) > _MAX_ALTERNATIVES:
                self._unenforced.append(("anyOf", "#"))
            else:
                alternatives = [(*parts, *more) for parts in alternatives for more in options]
        return alternatives

    def _report_counts(self, schema: Node) -> None:
        required = len(schema.get("required", ()))
        if schema.get("minProperties", 0) > required:
            self._unenforced.append(("minProperties", "#"))
        if schema.get("maxProperties", math.inf) < max(required, len(schema.get("properties", ()))):
            self._unenforced.append(("maxProperties", "#"))

    def _combined(self, parts: Sequence[Node]) -> list[tuple[str, bool, Schema]] | None:
        """Return the name of each property, whether it is required, and its schema; None if nothing fits."""
        required = {name for part in parts for name in names_of("required", part)}
        names = [name for part in parts for name in names_of("properties", part)]
        names += [name for part in parts for name in names_of("required", part)]
        members: list[tuple[str, bool, Schema]] = []
        for name in dict.fromkeys(names):
            whole = together([schema for part in parts for schema in _schemas_of(name, part)])
            if whole is not False:
                members.append((name, name in required, whole))
            elif name in required:
                return None
        return members

    # Values

    def _json(self, schema: Schema) -> str:
        text = json.dumps(schema)
        if isinstance(schema, bool) or '"$ref"' not in text:
            return json_text(schema)
        return json_text(_with_root_reference({**schema, "$defs": self._definitions}))

    def _kinds(self, schema: Schema, depth: int = 0) -> set[str]:
        """Return the types that a value may have. A number is one of both kinds."""
        if isinstance(schema, bool) or depth > _MAX_DEPTH:
            return set(TYPES) if schema else set()
        kinds = set(types_of(schema))
        for values in listed_values(schema):
            listed = {"string" if isinstance(value, str) else "null" if value is None else "" for value in values}
            kinds &= set(TYPES) if "" in listed else listed
        for part in schema.get("allOf", ()):
            kinds &= self._kinds(part, depth + 1)
        if "$ref" in schema:
            kinds &= self._kinds(self._schemas[schema["$ref"]], depth + 1)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                kinds &= set().union(*(self._kinds(option, depth + 1) for option in schema[keyword]))
        return kinds

    def _allows(self, schema: Schema, value: bool | None, depth: int = 0) -> bool:
        """Whether null, true or false is valid."""
        if isinstance(schema, bool) or depth > _MAX_DEPTH:
            return schema is True
        parts = [*schema.get("allOf", ()), *([self._schemas[schema["$ref"]]] if "$ref" in schema else [])]
        return (
            ("null" if value is None else "boolean") in types_of(schema)
            and all(any(listed is value for listed in values) for values in listed_values(schema))
            and all(self._allows(part, value, depth + 1) for part in parts)
            and all(
                any(self._allows(option, value, depth + 1) for option in schema[keyword])
                for keyword in ("anyOf", "oneOf")
                if keyword in schema
            )
        )

    def _terminals(self, schema: Schema, pointer: str, depth: int = 0) -> list[str] | None:
        """Return the terminals that a string must match; None if no string is valid."""
        if isinstance(schema, bool):
            return [] if schema else None
        if "string" not in types_of(schema):
            return None
        if depth > _MAX_DEPTH:
            self._unenforced.append(("$ref", pointer))
            return []
        parts = [self._own_terminals(schema, pointer)]
        parts += [self._terminals(part, pointer, depth + 1) for part in schema.get("allOf", ())]
        if "$ref" in schema:
            parts.append(self._terminals(self._schemas[schema["$ref"]], pointer, depth + 1))
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                parts.append(_either(self._terminals(option, pointer, depth + 1) for option in schema[keyword]))
        if "oneOf" in schema:
            self._unenforced.append(("oneOf", pointer))
        terminals: list[str] = []
        for part in parts:
            if part is None:
                return None
            terminals += part
        return terminals

    def _own_terminals(self, schema: Node, pointer: str) -> list[str] | None:
        terminals: list[str] = []
        for values in listed_values(schema):
            texts = [value for value in values if isinstance(value, str)]
            if not texts:
                return None
            terminals.append(f"({' | '.join(map(quoted, texts))})")
        if "minLength" in schema or "maxLength" in schema:
            terminals.append(length_pattern(schema.get("minLength", 0), schema.get("maxLength")))
        if "pattern" in schema:
            terminals.append(searching_pattern(schema["pattern"]))
        if "format" in schema:
            pattern = format_pattern(schema["format"])
            if pattern is None:
                self._unenforced.append(("format", pointer))
            else:
                terminals.append(pattern)
        return terminals


def together(schemas: Iterable[Schema]) -> Schema:
    """Return a schema of what is valid under all of these."""
    relevant = [schema for schema in schemas if schema is not True]
    if not relevant:
        return True
    if False in relevant:
        return False
    return relevant[0] if len(relevant) == 1 else {"allOf": relevant}


def listed_values(schema: Node) -> Iterator[list[Any]]:
    """Yield the values that `const` and `enum` allow."""
    if "const" in schema:
        yield [schema["const"]]
    if "enum" in schema:
        yield schema["enum"]


def _schemas_of(name: str, part: Node) -> Iterator[Schema]:
    """Yield the schemas of a property in one schema of objects."""
    properties, patterns = part.get("properties", {}), part.get("patternProperties", {})
    matching = [schema for pattern, schema in patterns.items() if matching_texts(pattern, [name])]
    if name in properties:
        yield properties[name]
    yield from matching
    if name not in properties and not matching:
        yield part.get("additionalProperties", True)


def _either(options: Iterable[list[str] | None]) -> list[str] | None:
    """Return a terminal for strings that match one of the options."""
    possible = [option for option in options if option is not None]
    if not possible:
        return None
    if not all(possible):
        return []  # One of them allows any string.
    alternatives = [f"({' & '.join(option)})" for option in possible]
    return [f"({' | '.join(alternatives)})"]


def _with_root_reference(schema: Schema) -> Schema:
    """Let references to the whole schema lead to the definition `root`."""
    replaced: Schema = json.loads(json.dumps(schema).replace(_ROOT_REFERENCE, '"$ref": "#/$defs/root"'))
    return replaced
