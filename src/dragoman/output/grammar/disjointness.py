"""Proves that the options of `oneOf` exclude each other, so that they can be enforced like those of `anyOf`.

llguidance looks neither behind references nor at properties that are not required.
"""

import itertools
from collections.abc import Mapping
from typing import Any, Final

from dragoman.output.grammar.keywords import Node, Schema, canonical_text, type_of, types_of
from dragoman.output.grammar.time_limit import check_time

_MAX_DEPTH = 8
_MAX_COMPARISONS = 20_000


POINTER: Final = "x-pointer"
"""Member beside `oneOf` that holds its pointer, until it is proven."""


def with_proven_alternatives(root: Schema, definitions: dict[str, Schema], unproven: list[str] | None = None) -> Schema:
    """Replace `oneOf` by `anyOf` wherever its options exclude each other, in `root` and in `definitions`.

    Both are schemas of grammar.schema. Options that exclude each other by a property that only some of them require
    are made to require it. With `unproven`, the other `oneOf` are replaced, too, and their pointers are added to it.
    """
    prover = _Prover({f"#/$defs/{name}": schema for name, schema in definitions.items()} | {"#": root}, unproven)
    replaced = {name: prover.replace(schema) for name, schema in definitions.items()}
    definitions.update(replaced)
    result: Schema = prover.replace(root)
    return result


def _with_any_of(schema: Node, options: list[Schema]) -> Node:
    """Replace `oneOf` by `anyOf` with these options."""
    rest = {keyword: value for keyword, value in schema.items() if keyword != "oneOf"}
    if "anyOf" not in schema:
        return {**rest, "anyOf": options}
    return {**rest, "allOf": [*schema.get("allOf", ()), {"anyOf": options}]}


class _Prover:
    def __init__(self, schemas: Mapping[str, Schema], unproven: list[str] | None) -> None:
        self._unproven = unproven
        self._schemas = schemas
        self._comparisons = 0

    def replace(self, schema: Any) -> Any:
        """Return the schema with `oneOf` replaced where that is proven, at every depth."""
        if isinstance(schema, list):
            return [self.replace(part) for part in schema]
        if not isinstance(schema, dict):
            return schema
        replaced = {
            keyword: value if keyword in _CONSTANTS else self._replace_value(keyword, value)
            for keyword, value in schema.items()
            if keyword != POINTER
        }
        if "oneOf" not in schema:
            return replaced
        if self._all_exclude(schema["oneOf"]):
            return _with_any_of(replaced, replaced["oneOf"])
        for name in self._declared_by_all(schema["oneOf"]):
            if self._all_exclude([_requiring(name, option) for option in schema["oneOf"]]):
                return _with_any_of(replaced, [_requiring(name, option) for option in replaced["oneOf"]])
        if self._unproven is None:
            return replaced
        self._unproven.append(schema[POINTER])
        return _with_any_of(replaced, replaced["oneOf"])

    def _replace_value(self, keyword: str, value: Any) -> Any:
        if keyword in ("properties", "patternProperties"):
            return {name: self.replace(part) for name, part in value.items()}
        return self.replace(value)

    def _declared_by_all(self, options: list[Schema]) -> list[str]:
        """Return the names of the properties that all options declare."""
        declared = [self._resolved(option).get("properties", {}) for option in options]
        return [name for name in declared[0] if all(name in properties for properties in declared[1:])]

    def _all_exclude(self, options: list[Schema]) -> bool:
        return all(self._exclude(one, other, 0) for one, other in itertools.combinations(options, 2))

    def _exclude(self, one: Schema, other: Schema, depth: int) -> bool:
        """Whether it is certain that no document is valid under both."""
        check_time()
        self._comparisons += 1
        if depth > _MAX_DEPTH or self._comparisons > _MAX_COMPARISONS:
            return False
        first, second = self._resolved(one), self._resolved(other)
        return (
            _IMPOSSIBLE in (first, second)
            or self._has_excluding_part(first, second, depth)
            or self._has_excluding_part(second, first, depth)
            or _exclude_by_value(first, second)
            or self._exclude_by_property(first, second, depth)
            or self._exclude_by_property(second, first, depth)
        )

    def _has_excluding_part(self, schema: Node, other: Node, depth: int) -> bool:
        """Whether a part of `schema` that must be valid excludes `other`."""
        if any(self._exclude(part, other, depth + 1) for part in schema.get("allOf", ())):
            return True
        return any(
            all(self._exclude(part, other, depth + 1) for part in schema[keyword])
            for keyword in ("anyOf", "oneOf")
            if keyword in schema
        )

    def _exclude_by_property(self, one: Node, other: Node, depth: int) -> bool:
        """Whether a property that `one` requires cannot have the same value under both."""
        if _kinds(one) & _kinds(other) != {"object"}:
            return False
        return any(
            self._exclude(_property(one, name), _property(other, name), depth + 1) for name in one.get("required", ())
        )

    def _resolved(self, schema: Schema) -> Node:
        """Return the schema behind references. If there are keywords beside the reference, its target is in `allOf`."""
        required: list[str] = []
        for _ in range(_MAX_DEPTH):
            if isinstance(schema, bool):
                return {} if schema else _IMPOSSIBLE
            rest = {keyword: value for keyword, value in schema.items() if keyword not in ("$ref", "required")}
            required += schema.get("required", ())
            if "$ref" not in schema:
                return {**rest, "required": required} if required else rest
            target = self._schemas[schema["$ref"]]
            if rest:
                return {**rest, "required": required, "allOf": [*rest.get("allOf", ()), target]}
            schema = target
        return {}


_CONSTANTS: Final = frozenset({"const", "enum", "required"})
_IMPOSSIBLE: Final[Node] = {"enum": []}


def _requiring(name: str, option: Schema) -> Schema:
    if isinstance(option, bool):
        return option
    return {**option, "required": [*option.get("required", ()), name]}


def _property(schema: Node, name: str) -> Schema:
    """Return what a property must satisfy."""
    if name in schema.get("properties", {}):
        value: Schema = schema["properties"][name]
        return value
    return (
        "additionalProperties" not in schema
        or schema["additionalProperties"] is not False
        or ("patternProperties" in schema)
    )


def _exclude_by_value(one: Node, other: Node) -> bool:
    kinds = _kinds(one) & _kinds(other)
    if not kinds:
        return True
    values, others = _values(one), _values(other)
    if values is not None and others is not None:
        return not values & others
    if kinds <= {"integer", "number"}:
        return _exclude_by_bounds(one, other) or _exclude_by_bounds(other, one)
    return any(
        kinds == {kind}
        and (
            one.get(f"max{unit}", 1e9) < other.get(f"min{unit}", 0)
            or other.get(f"max{unit}", 1e9) < one.get(f"min{unit}", 0)
        )
        for kind, unit in (("string", "Length"), ("array", "Items"))
    )


def _exclude_by_bounds(low: Node, high: Node) -> bool:
    """Whether all numbers of `low` are below those of `high`."""
    tops = [
        (low[keyword], keyword == "exclusiveMaximum") for keyword in ("maximum", "exclusiveMaximum") if keyword in low
    ]
    bottoms = [
        (high[keyword], keyword == "exclusiveMinimum") for keyword in ("minimum", "exclusiveMinimum") if keyword in high
    ]
    return any(
        top < bottom or (top == bottom and (excludes_top or excludes_bottom))
        for (top, excludes_top), (bottom, excludes_bottom) in itertools.product(tops, bottoms)
    )


def _kinds(schema: Node) -> set[str]:
    """Return the types of valid documents. A number may be an integer."""
    kinds = set(types_of(schema))
    if "number" in kinds:
        kinds.add("integer")
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return kinds if values is None else kinds & set().union(*map(_kinds_of, values))


def _kinds_of(value: Any) -> set[str]:
    kind = type_of(value)
    return {"number", "integer"} if kind == "integer" or (kind == "number" and value.is_integer()) else {kind}


def _values(schema: Node) -> set[str] | None:
    """Return the valid documents as canonical texts; None if they are not listed."""
    if "const" not in schema and "enum" not in schema:
        return None
    values = [schema["const"]] if "const" in schema else schema["enum"]
    return set(map(canonical_text, values))
