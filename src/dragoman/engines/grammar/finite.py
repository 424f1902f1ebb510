"""Whether any document fits a schema at all: one that needs itself inside itself goes on without end."""

from collections.abc import Mapping
from typing import Any

from dragoman.engines.grammar.keywords import TYPES, Schema


def has_documents(root: Schema, definitions: Mapping[str, Schema]) -> bool:
    """Whether a document of finite size can fit `root`, as far as its structure tells.

    `root` refers to itself as "#", to a definition as "#/$defs/NAME". A least fixed point: a definition has documents
    once one of its forms needs only definitions that have. Keywords that contradict each other are not looked for.
    """
    schemas = {f"#/$defs/{name}": schema for name, schema in definitions.items()} | {"#": root}
    known: set[str] = set()
    before = -1
    while before < len(known):  # few rounds, since definitions stand behind those that they need
        before = len(known)
        for reference, schema in schemas.items():
            if reference not in known and _fits(schema, known):
                known.add(reference)
    return "#" in known


def _fits(schema: Schema, known: set[str]) -> bool:
    if isinstance(schema, bool):
        return schema
    return (
        ("$ref" not in schema or schema["$ref"] in known)
        and all(_fits(part, known) for part in schema.get("allOf", ()))
        and all(any(_fits(part, known) for part in schema.get(word, (True,))) for word in ("anyOf", "oneOf"))
        and len(schema.get("enum", "?")) > 0
        and any(_fits_as(kind, schema, known) for kind in _types(schema))
    )


def _types(schema: dict[str, Any]) -> tuple[str, ...]:
    types = schema.get("type", TYPES)
    return (types,) if isinstance(types, str) else tuple(types)


def _fits_as(kind: str, schema: dict[str, Any], known: set[str]) -> bool:
    if kind == "object":
        properties = schema.get("properties", {})
        return all(_fits(properties.get(name, True), known) for name in schema.get("required", ()))
    if kind == "array":
        first = schema.get("prefixItems", [])
        needed = schema.get("minItems", 0)
        rest_fits = needed <= len(first) or _fits(schema.get("items", True), known)
        return rest_fits and all(_fits(item, known) for item in first[:needed])
    return True
