"""Lark rules of arguments in a ValueSyntax, which llguidance's JSON cannot express.

Objects have the properties that their schema names, in its order or sorted, and then further ones if it allows these.
Beside `patternProperties`, these are only such as match a pattern. Numbers, and strings with escapes, are JSON under
their schemas.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dragoman.output.element_syntax import ValueTypes
from dragoman.output.grammar.keywords import Node, Schema
from dragoman.output.grammar.lark import compile_error, fitting_values, json_text, quoted
from dragoman.output.grammar.parameters import SchemaDivider, listed_values, together
from dragoman.output.grammar.raw_strings import searching_pattern
from dragoman.output.value_syntax import ValueSyntax

ARRAY_KEYWORDS: Final = ("items", "prefixItems", "minItems", "maxItems")
_QUOTED_NAME: Final = r'/"(?:[^"\\\x00-\x1F]|\\["\\bfnrt])*"/'
_SINGLE_QUOTED: Final = r"/'(?:[^'\\\x00-\x1F]|\\['\\bfnrt])*'/"
_BARE_NAME: Final = "/[A-Za-z_][A-Za-z0-9_]{0,63}/"


class ArgumentRules(NamedTuple):
    """The rules of one tool's arguments."""

    name: str
    """The rule of all arguments."""
    rules: tuple[str, ...]
    """Empty: no arguments are valid."""
    quote: str
    """The text on both sides of `strings`."""
    strings: Mapping[str, str]
    """The rule of a string without escapes → the Lark terminal of its text."""
    names: tuple[str, ...]
    """The names of arguments."""
    unenforced: tuple[tuple[str, str], ...]
    """Keywords that are not enforced, each with its pointer."""
    tag: str = ""
    """The rule of what stands before every tag, if values are elements."""
    types: ValueTypes | None = None
    """The types of values whose texts do not show them."""


def argument_rules(schema: Schema, syntax: ValueSyntax, name: str) -> ArgumentRules:
    """Return the rules of a schema of objects from grammar.schema. All of their names begin with `name`."""
    return _ValueWriter(schema, syntax, name).write(schema)


class RuleWriter(SchemaDivider):
    """Collects the rules of a function's arguments."""

    def __init__(self, root: Schema, close: str, prefix: str) -> None:
        """`close`: what no string without escapes has in it. `prefix`: what the names of all rules begin with."""
        super().__init__(root, close)
        self._prefix = prefix
        self._rules: dict[str, str] = {}
        """Rules and terminals → their bodies."""
        self._strings: dict[str, str] = {}
        """Terminals of strings without escapes → their rules."""
        self._names: list[str] = []
        self._numbers = itertools.count()

    def _written(
        self, alternatives: Sequence[str], *, quote: str = "", tag: str = "", types: ValueTypes | None = None
    ) -> ArgumentRules:
        """Return the rules, of which these alternatives match all arguments."""
        if alternatives:
            self._rules[self._prefix] = " | ".join(alternatives)
        return ArgumentRules(
            name=self._prefix,
            rules=tuple(f"{name}: {body}" for name, body in self._rules.items()) if alternatives else (),
            quote=quote,
            strings={name: terminal for terminal, name in self._strings.items()},
            names=tuple(dict.fromkeys(self._names)),
            unenforced=tuple(dict.fromkeys(self._unenforced)),
            tag=tag,
            types=types,
        )

    def _rule(self, body: str, prefix: str = "") -> str:
        """Add a rule, or a terminal if `prefix` is in upper case, and return its name."""
        name = f"{prefix or f'{self._prefix}_rule'}_{next(self._numbers)}"
        self._rules[name] = body
        return name

    def _string_rule(self, terminal: str) -> str:
        return self._strings.setdefault(terminal, f"{self._prefix}_string_{len(self._strings)}")

    def _listed_composites(self, schema: Schema) -> list[Any] | None:
        """Return the lists and objects that a schema allows if it lists its values, else None."""
        if isinstance(schema, bool):
            return None
        listed = next((values for node in (schema, *_required_nodes(schema)) for values in listed_values(node)), None)
        if listed is None:
            return None
        composites = [value for value in listed if isinstance(value, list | dict)]
        if not composites or schema.keys() <= {"type", "enum", "const"}:
            return composites
        return fitting_values(self._json(schema), composites)


class _ValueWriter(RuleWriter):
    def __init__(self, root: Schema, syntax: ValueSyntax, prefix: str) -> None:
        super().__init__(root, syntax.quotes[0], prefix)
        self._syntax = syntax
        self._values: dict[str, str | None] = {}
        """Schemas as text → their rules; None: no value is valid."""

    def write(self, root: Schema) -> ArgumentRules:
        return self._written(list(self._objects(root, "#", in_object=False)), quote=self._syntax.quotes[0])

    def _value(self, schema: Schema, pointer: str) -> str | None:
        """Return the rule of a value; None if no value is valid."""
        text = json.dumps(schema)
        if text not in self._values:
            # The schema may refer to itself.
            self._values[text] = name = self._rule("")
            alternatives = list(self._alternatives(schema, pointer))
            self._rules[name] = " | ".join(dict.fromkeys(alternatives))
            if not alternatives:
                self._values[text] = None
                del self._rules[name]
        return self._values[text]

    def _alternatives(self, schema: Schema, pointer: str) -> Iterator[str]:
        if isinstance(schema, dict) and schema.keys() in ({"anyOf"}, {"$ref"}):
            options = schema["anyOf"] if "anyOf" in schema else [self._schemas[schema["$ref"]]]
            yield from filter(None, (self._value(option, pointer) for option in options))
            return
        kinds = self._kinds(schema)
        if "string" in kinds:
            yield from self._string(schema, pointer)
        if kinds & {"integer", "number"}:
            yield from self._json_of_type(schema, "number")
        for word in (True, False, None):
            if self._allows(schema, word):
                yield quoted(self._syntax.word(word))
        if (listed := self._listed_composites(schema)) is not None:
            yield from map(self._literal, filter(self._syntax.can_have, listed))
            return
        if "array" in kinds:
            for parts in self._flattened(schema, keywords=ARRAY_KEYWORDS):
                yield from self._array(parts, pointer)
        if "object" in kinds:
            for members in self._objects(schema, pointer, in_object=True):
                yield f'"{{" ({members}) "}}"'

    # Scalar values

    def _json_of_type(self, schema: Schema, kind: str) -> Iterator[str]:
        if isinstance(schema, bool) or schema == {"type": kind}:
            yield self._rule(json_text({"type": kind}))
            return
        body = self._json({"allOf": [schema, {"type": kind}]})
        if not compile_error(f"start: {body}"):
            yield self._rule(body)

    def _string(self, schema: Schema, pointer: str) -> Iterator[str]:
        if not self._syntax.escapes:
            terminal = self._terminal(schema, pointer, [])
            if terminal is not None:
                yield self._string_rule(terminal)
            return
        yield from self._json_of_type(schema, "string")
        known = len(self._unenforced)
        if self._terminals(schema, pointer) == [] and len(self._unenforced) == known:
            yield _SINGLE_QUOTED
        del self._unenforced[known:]  # JSON enforces more

    def _literal(self, value: Any) -> str:
        """Match one value."""
        if isinstance(value, str) and not self._syntax.escapes:
            return self._string_rule(quoted(value))
        separator = f" {quoted(self._syntax.separator)} "
        if isinstance(value, list):
            return f'"[" {separator.join(map(self._literal, value))} "]"'
        if isinstance(value, dict):
            members = (f"{self._head(name, in_object=True)} {self._literal(part)}" for name, part in value.items())
            return f'"{{" {separator.join(members)} "}}"'
        return quoted(self._syntax.value(value))

    # Lists

    def _array(self, parts: Sequence[Node], pointer: str) -> Iterator[str]:
        length = max((len(part.get("prefixItems", ())) for part in parts), default=0)
        minimum = max((part.get("minItems", 0) for part in parts), default=0)
        maximum = min((part.get("maxItems", math.inf) for part in parts), default=math.inf)
        first: list[str] = []
        for index in range(length):
            value = self._value(together([item_of(part, index) for part in parts]), f"{pointer}/prefixItems/{index}")
            if value is None:
                maximum = min(maximum, index)
                break
            first.append(value)
        further = None
        if maximum > length:
            further = self._value(together([part.get("items", True) for part in parts]), f"{pointer}/items")
            maximum = length if further is None else maximum
        if minimum > maximum:
            return
        if maximum == 0:
            yield '"[]"'
            return
        separator = quoted(self._syntax.separator)
        if not first:
            assert further is not None
            first, length = [further], 1
        rest = "" if further is None else f"({separator} {further}){repetition(minimum - length, maximum - length)}"
        if maximum <= length:
            first, rest = first[: int(maximum)], ""
        for index, value in reversed(list(enumerate(first))):
            rest = f"{separator if index else ''} {value} {rest}"
            if index >= minimum:
                rest = f"({rest})?"
        yield f'"[" {rest} "]"'

    # Objects

    def _objects(self, schema: Schema, pointer: str, *, in_object: bool) -> Iterator[str]:
        """Yield alternatives of what stands between the brackets of objects."""
        for parts in self._flattened(schema):
            combined = self._combined(parts)
            if combined is not None:
                members = self._members(combined, further_properties(parts), pointer, in_object=in_object)
                if members is not None:
                    yield members

    def _members(
        self,
        combined: Sequence[tuple[str, bool, Schema]],
        further: Sequence[tuple[str | None, Schema]],
        pointer: str,
        *,
        in_object: bool,
    ) -> str | None:
        """Return what matches members; None if a required one has no value.

        `further` are the schemas of members that are not named, each with the pattern that their names match, or all
        with None.
        """
        items: list[tuple[str, bool]] = []
        if self._syntax.sorts_names:
            combined = sorted(combined, key=lambda member: member[0].lower())
        for name, required, schema in combined:
            can_have = not in_object or self._syntax.can_have({name: 0})
            value = self._value(schema, f"{pointer}/properties/{name}") if can_have else None
            if value is not None:
                items.append((f"{self._head(name, in_object=in_object)} {value}", required))
            elif required:
                return None
        if not in_object:
            self._names += [name for name, _, _ in combined]
        separator = quoted(self._syntax.separator)
        first, rest = ['""'], ""
        names = [name for name, _, _ in combined]
        if others := list(self._others(names, further, f"{pointer}/additionalProperties", in_object=in_object)):
            other = self._rule(" | ".join(others))
            rest = self._rule(f"({separator} {other})*")
            first.append(f"{other} {rest}")
        for item, required in reversed(items):
            first = [*([] if required else first), f"{item} {rest}"]
            rest = self._rule(f"{separator} {item} {rest}" if required else f"({separator} {item})? {rest}")
        return " | ".join(first)

    def _others(
        self, names: Sequence[str], further: Sequence[tuple[str | None, Schema]], pointer: str, *, in_object: bool
    ) -> Iterator[str]:
        """Yield alternatives of a member that has none of these names."""
        end = quoted(self._syntax.after_name if in_object else self._syntax.after_argument)
        for pattern, schema in further:
            name = self._other_name(names, pattern, in_object=in_object)
            value = None if name is None else self._value(schema, pointer)
            if value is not None:
                yield f"{name} {end} {value}"

    def _head(self, name: str, *, in_object: bool) -> str:
        """Match a name and what follows it."""
        end = self._syntax.after_name if in_object else self._syntax.after_argument
        if self._syntax.bare_name(name, in_object=in_object):
            return quoted(name + end)
        if self._syntax.escapes:
            return quoted(self._syntax.string(name) + end)
        return f"{self._string_rule(quoted(name))} {quoted(end)}"

    def _other_name(self, names: Sequence[str], pattern: str | None, *, in_object: bool) -> str | None:
        """Return what matches names that are none of these, or that match a pattern, which fits none of these.

        None: no such name can be written.
        """
        in_quotes = in_object and self._syntax.quotes_names
        if pattern is not None and in_quotes:
            return self._rule(json_text({"type": "string", "pattern": pattern}))
        if pattern is not None:
            body = f"{_BARE_NAME} & {searching_pattern(pattern)}"
            is_possible = not compile_error(f"start: NAME\nNAME: {body}")
            return self._rule(body, f"{self._prefix}_NAME".upper()) if is_possible else None
        known = [quoted(self._syntax.string(name) if in_quotes else name) for name in names]
        terminal = _QUOTED_NAME if in_quotes else _BARE_NAME
        body = f"{terminal} & ~({' | '.join(known)})" if known else terminal
        return self._rule(body, f"{self._prefix}_NAME".upper())


def _required_nodes(schema: Node) -> Iterator[Node]:
    """Yield the schemas in `allOf`, which hold together with this one."""
    for part in schema.get("allOf", ()):
        if isinstance(part, dict):
            yield part
            yield from _required_nodes(part)


def further_properties(parts: Sequence[Node]) -> Sequence[tuple[str | None, Schema]]:
    """Return the schemas of properties that are not named, each with the pattern of their names, or all with None.

    Those that a keyword might forbid are left out.
    """
    if any("maxProperties" in part for part in parts):
        return ()
    if not any("patternProperties" in part for part in parts):
        return [(None, together([part.get("additionalProperties", True) for part in parts]))]
    relevant = [part for part in parts if part]
    return list(relevant[0]["patternProperties"].items()) if len(relevant) == 1 else ()


def item_of(part: Node, index: int) -> Schema:
    first: Sequence[Schema] = part.get("prefixItems", ())
    item: Schema = first[index] if index < len(first) else part.get("items", True)
    return item


def repetition(minimum: float, maximum: float) -> str:
    if minimum <= 0 and maximum == math.inf:
        return "*"
    return f"{{{max(0, int(minimum))},{'' if maximum == math.inf else int(maximum)}}}"
