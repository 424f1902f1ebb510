"""Detects schemas that no finite document satisfies, because they require themselves."""

from collections.abc import Mapping
from typing import Any

from dragoman.output.grammar.keywords import Schema, types_of


def is_satisfiable(root: Schema, definitions: Mapping[str, Schema]) -> bool:
    """Whether a finite document can satisfy `root`, according to its structure.

    `root` references itself as "#", a definition as "#/$defs/NAME". Computes a least fixed point: a definition is
    satisfiable once one of its alternatives needs only satisfiable definitions. Contradictory keywords go undetected.
    """
    schemas = {f"#/$defs/{name}": schema for name, schema in definitions.items()} | {"#": root}
    satisfiable: set[str] = set()
    before = -1
    while before < len(satisfiable):  # few rounds, since definitions come after those that they need
        before = len(satisfiable)
        for reference, schema in schemas.items():
            if reference not in satisfiable and _is_satisfiable(schema, satisfiable):
                satisfiable.add(reference)
    return "#" in satisfiable


def _is_satisfiable(schema: Schema, satisfiable: set[str]) -> bool:
    if isinstance(schema, bool):
        return schema
    return (
        ("$ref" not in schema or schema["$ref"] in satisfiable)
        and all(_is_satisfiable(part, satisfiable) for part in schema.get("allOf", ()))
        and all(
            any(_is_satisfiable(part, satisfiable) for part in schema.get(keyword, (True,)))
            for keyword in ("anyOf", "oneOf")
        )
        and len(schema.get("enum", "?")) > 0
        and any(_is_satisfiable_as(kind, schema, satisfiable) for kind in types_of(schema))
    )


def _is_satisfiable_as(kind: str, schema: dict[str, Any], satisfiable: set[str]) -> bool:
    if kind == "object":
        properties = schema.get("properties", {})
        return all(_is_satisfiable(properties.get(name, True), satisfiable) for name in schema.get("required", ()))
    if kind == "array":
        first = schema.get("prefixItems", [])
        needed = schema.get("minItems", 0)
        rest_fits = needed <= len(first) or _is_satisfiable(schema.get("items", True), satisfiable)
        return rest_fits and all(_is_satisfiable(item, satisfiable) for item in first[:needed])
    return True
