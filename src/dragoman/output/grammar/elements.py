"""Lark rules of arguments in an ElementSyntax.

Where a value may be a string, numbers are generated only if any number is valid, and an empty string only if no list or
object is. Objects have the properties that their schema names, in its order, or any if it names none.
"""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Final

from dragoman.output.element_syntax import ITEM, ElementSyntax, ValueTypes
from dragoman.output.grammar.keywords import Node, Schema
from dragoman.output.grammar.lark import compile_error, quoted
from dragoman.output.grammar.parameters import listed_values, together
from dragoman.output.grammar.raw_strings import searching_pattern
from dragoman.output.grammar.values import (
    ARRAY_KEYWORDS,
    ArgumentRules,
    RuleWriter,
    further_properties,
    item_of,
    repetition,
)

_INTEGER: Final = "/-?(?:0|[1-9][0-9]{0,15})/"
_NUMBER: Final = r"/-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]{1,16})?/"
_LIKE_NUMBER: Final = r"/-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/"
_NOT_EMPTY: Final = "/(?s:.+)/"
_WORDS: Final = {"boolean": '"true" | "false"', "null": '"null"'}
_ANY_NAME: Final = "/[A-Za-z_][A-Za-z0-9_.-]{0,63}/"


def element_rules(schema: Schema, syntax: ElementSyntax, name: str) -> ArgumentRules:
    """Return the rules of a schema of objects from grammar.schema. All of their names begin with `name`."""
    return _ElementWriter(schema, syntax, name).write(schema)


class _ElementWriter(RuleWriter):
    """Writes rules whose terminals of text end with what stands before the closing tag."""

    def __init__(self, root: Schema, syntax: ElementSyntax, prefix: str) -> None:
        super().__init__(root, syntax.prefix, prefix)
        self._tag = f"{prefix}_tag"
        """The rule of what stands before every tag."""
        self._values: dict[tuple[str, int], str | None] = {}
        """Schemas as text and the types at their place → their rules; None: no value is valid."""
        self._types: dict[frozenset[str], ValueTypes] = {}
        """Schemas as text → the types of what is valid under one of them."""

    def write(self, root: Schema) -> ArgumentRules:
        types = self._types_of([root])
        return self._written(list(self._objects(root, types, "#", non_empty=False)), tag=self._tag, types=types)

    # Types

    def _types_of(self, schemas: Sequence[Schema]) -> ValueTypes:
        key = frozenset(map(json.dumps, schemas))
        if key in self._types:
            return self._types[key]
        types = self._types[key] = ValueTypes()
        options = [option for schema in schemas for option in self._options(schema)]
        for option, has_composites in options:
            kinds = self._kinds(option) - (set() if has_composites else {"array", "object"})
            types.kinds |= {"number" if kind == "integer" else kind for kind in kinds}
        items: list[Schema] = []
        members: dict[str, list[Schema]] = {}
        others: list[Schema] = []
        for option, has_composites in options:
            for parts in self._flattened(option, keywords=ARRAY_KEYWORDS) if has_composites else ():
                count = max((len(part.get("prefixItems", ())) for part in parts), default=0)
                items += [together([item_of(part, index) for part in parts]) for index in range(count + 1)]
            for parts in self._flattened(option) if has_composites else ():
                combined = self._combined(parts)
                for name, _, schema in combined or ():
                    members.setdefault(name, []).append(schema)
                others += [] if combined else [schema for _, schema in further_properties(parts)]
        types.items = self._types_of(items) if items else None
        types.members = {name: self._types_of(of_name) for name, of_name in members.items()}
        types.others = self._types_of(others) if others else None
        if ITEM in members:
            types.kinds.discard("array")  # a list would look like an object with this member
        return types

    def _options(self, schema: Schema) -> Iterator[tuple[Schema, bool]]:
        """Yield schemas of which a value must fit one, and whether lists and objects may."""
        if isinstance(schema, dict) and schema.keys() in ({"anyOf"}, {"$ref"}):
            for option in schema["anyOf"] if "anyOf" in schema else [self._schemas[schema["$ref"]]]:
                yield from self._options(option)
            return
        composites = self._listed_composites(schema)
        yield schema, composites is None
        yield from ((_schema_of(value), True) for value in composites or ())

    # Values. Their rules end with what stands before the closing tag.

    def _value(self, schema: Schema, types: ValueTypes, pointer: str) -> str | None:
        """Return the rule of a value; None if no value is valid."""
        key = json.dumps(schema), id(types)
        if key not in self._values:
            # The schema may refer to itself.
            self._values[key] = name = self._rule("")
            options = list(self._options(schema))
            alternatives = [*self._texts([option for option, _ in options], types, pointer)]
            for option, has_composites in options:
                alternatives += self._composites(option, types, pointer) if has_composites else ()
            self._rules[name] = " | ".join(dict.fromkeys(alternatives))
            if not alternatives:
                self._values[key] = None
                del self._rules[name]
        return self._values[key]

    def _texts(self, options: Sequence[Schema], types: ValueTypes, pointer: str) -> Iterator[str]:
        """Yield alternatives of values without elements in them."""
        if "string" not in types.kinds:
            for option in options:
                yield from self._scalars(option)
            return
        # As one terminal, since the lexer takes the longest one: a string would win over other values.
        never = [f"~({pattern})" for kind, pattern in {"number": _LIKE_NUMBER, **_WORDS}.items() if kind in types.kinds]
        if types.kinds & {"array", "object"}:
            never.append(_NOT_EMPTY)
        terminals: list[str] = []
        for option in options:
            terminal = self._terminal(option, pointer, never)
            terminals += [] if terminal is None else [f"({terminal})"]
            terminals += self._unquoted(option)
        if terminals:
            yield self._string_rule(" | ".join(dict.fromkeys(terminals)))

    def _unquoted(self, schema: Schema) -> Iterator[str]:
        """Yield terminals of numbers, as far as no keyword restricts them, and of words."""
        if isinstance(schema, dict) and (listed := next(iter(listed_values(schema)), None)) is not None:
            yield from (quoted(json.dumps(value)) for value in listed if not isinstance(value, str | list | dict))
            return
        yield from (quoted(json.dumps(word)) for word in (True, False, None) if self._allows(schema, word))
        kinds = self._kinds(schema)
        is_any = isinstance(schema, bool) or not schema.keys() - {"type", *_KEYWORDS_OF_OTHERS}
        if is_any and kinds & {"number", "integer"}:
            yield _NUMBER if "number" in kinds else _INTEGER

    def _scalars(self, schema: Schema) -> Iterator[str]:
        """Yield alternatives of numbers and words where no string is valid."""
        if self._kinds(schema) & {"number", "integer"}:
            body = self._json({"allOf": [schema, {"type": "number"}]})
            if schema == {"type": "number"} or not compile_error(f"start: {body}"):
                yield f"{self._rule(body)} {self._tag}"
        for word in (True, False, None):
            if self._allows(schema, word):
                yield f"{quoted(json.dumps(word))} {self._tag}"

    def _composites(self, schema: Schema, types: ValueTypes, pointer: str) -> Iterator[str]:
        """Yield alternatives of lists and objects."""
        if "array" in types.kinds:
            for parts in self._flattened(schema, keywords=ARRAY_KEYWORDS):
                body = self._array(parts, types, pointer)
                if body is not None:
                    yield f"{body} {self._tag}"
        if "object" in types.kinds:
            for members in self._objects(schema, types, pointer, non_empty="array" in types.kinds):
                yield f"({members}) {self._tag}"

    def _element(self, name: str, value: str) -> str:
        return f"{self._tag} {quoted(f'<{name}>')} {value} {quoted(f'</{name}>')}"

    # Lists

    def _array(self, parts: Sequence[Node], types: ValueTypes, pointer: str) -> str | None:
        assert types.items is not None
        length = max((len(part.get("prefixItems", ())) for part in parts), default=0)
        minimum = max((part.get("minItems", 0) for part in parts), default=0)
        maximum = min((part.get("maxItems", math.inf) for part in parts), default=math.inf)
        items: list[str] = []
        for index in range(length + 1):
            value = self._value(together([item_of(part, index) for part in parts]), types.items, f"{pointer}/items")
            if value is None:
                maximum = min(maximum, index)
                break
            items.append(self._element(ITEM, value))
        if minimum > maximum:
            return None
        rest = ""
        if len(items) > length and maximum > length:
            rest = f"({items[length]}){repetition(minimum - length, maximum - length)}"
        for index in reversed(range(int(min(length, maximum)))):
            rest = f"{items[index]} {rest}"
            if index >= minimum:
                rest = f"({rest})?"
        return rest or '""'

    # Objects

    def _objects(self, schema: Schema, types: ValueTypes, pointer: str, *, non_empty: bool) -> Iterator[str]:
        """Yield alternatives of the elements of objects."""
        for parts in self._flattened(schema):
            combined = self._combined(parts)
            if combined:
                members = self._members(combined, types, pointer, non_empty=non_empty)
            else:
                members = None if combined is None else self._free_members(parts, types, pointer, non_empty=non_empty)
            if members is not None:
                yield members

    def _members(
        self, combined: Sequence[tuple[str, bool, Schema]], types: ValueTypes, pointer: str, *, non_empty: bool
    ) -> str | None:
        """Return what matches members; None if a required one has no value."""
        items: list[tuple[str, bool]] = []
        for name, required, schema in combined:
            value = self._value(schema, types.members[name], f"{pointer}/properties/{name}")
            if value is not None:
                items.append((self._element(name, value), required))
                self._names.append(name)
            elif required:
                return None
        if non_empty and not any(required for _, required in items):
            bodies = [
                " ".join([item, *(f"({other})?" for other, _ in items[n:])]) for n, (item, _) in enumerate(items, 1)
            ]
            return " | ".join(bodies) or None
        return " ".join(item if required else f"({item})?" for item, required in items) or '""'

    def _free_members(self, parts: Sequence[Node], types: ValueTypes, pointer: str, *, non_empty: bool) -> str | None:
        """Return what matches members with any names; None if there must be one and cannot be any."""
        alternatives: list[str] = []
        for pattern, schema in further_properties(parts):
            terminal = _ANY_NAME if pattern is None else f"{_ANY_NAME} & {searching_pattern(pattern)}"
            if non_empty:
                terminal += f' & ~"{ITEM}"'
            if types.others is None or compile_error(f"start: NAME\nNAME: {terminal}"):
                continue
            value = self._value(schema, types.others, f"{pointer}/additionalProperties")
            if value is not None:
                name = self._rule(terminal, f"{self._prefix}_NAME".upper())
                alternatives.append(f'{self._tag} "<" {name} ">" {value} "</" {name} ">"')
        if not alternatives:
            return None if non_empty else '""'
        return f"({' | '.join(alternatives)}){'+' if non_empty else '*'}"


_KEYWORDS_OF_OTHERS: Final = (
    *("minLength", "maxLength", "pattern", "format", "properties", "patternProperties", "additionalProperties"),
    *("required", "minProperties", "maxProperties", "items", "prefixItems", "minItems", "maxItems"),
)
"""Keywords that do not restrict numbers."""


def _schema_of(value: object) -> Schema:
    """Return the schema of one list or object, for what else than lists and objects is constant in it."""
    if isinstance(value, list):
        items = [_schema_of(part) for part in value]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items), "maxItems": len(items)}
    if isinstance(value, dict):
        members = {name: _schema_of(part) for name, part in value.items()}
        return {"type": "object", "properties": members, "required": [*members], "additionalProperties": False}
    return {"const": value}
