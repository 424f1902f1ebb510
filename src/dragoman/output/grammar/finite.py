"""Lists the documents that are valid under a schema, where these are few."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final

from dragoman.output.grammar.keywords import (
    InvalidKeyword,
    Node,
    Schema,
    UnenforceableKeyword,
    canonical_text,
    enforceable_keywords,
    type_of,
    types_of,
)
from dragoman.output.grammar.negation import Resolve, effective_keywords

_MAX_ARRAYS: Final = 2_000
"""Limit of the arrays without repetition that are listed."""

_MAX_DEPTH: Final = 20

_NAME_FORMATS: Final = {
    "uuid": "^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
    "date": "^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9])$",
}
"""Formats of names → patterns of names that have them."""


def arrays_without_repetition(node: Node, resolve: Resolve) -> Schema:
    """Express `uniqueItems` by listing the arrays, in any order of their items if these are few.

    True: it has no effect. Raises UnenforceableKeyword unless `items` lists the values that an item may have.
    """
    low, high = node.get("minItems", 0), node.get("maxItems", _MAX_ARRAYS)
    if not isinstance(low, int) or not isinstance(high, int):
        raise UnenforceableKeyword("'minItems' and 'maxItems' beside it must be integers")
    if high <= 1:
        return True
    values = valid_documents(node.get("items", True), resolve)
    if values is None or "prefixItems" in node or isinstance(node.get("items"), list):
        raise UnenforceableKeyword("it is enforced only where 'items' has a 'const' or 'enum'")
    lengths = range(low, min(high, len(values)) + 1)
    arrays = list(itertools.islice(_arrays(values, lengths, itertools.permutations), _MAX_ARRAYS + 1))
    if len(arrays) > _MAX_ARRAYS:
        arrays = list(itertools.islice(_arrays(values, lengths, itertools.combinations), _MAX_ARRAYS + 1))
    if len(arrays) > _MAX_ARRAYS:
        raise UnenforceableKeyword(f"there are more than {_MAX_ARRAYS} arrays without repetition")
    others = ["null", "boolean", "object", "number", "string"]
    return {"anyOf": [{"type": others}, {"enum": arrays}]} if node.get("type") != "array" else {"enum": arrays}


def _arrays(values: list[Any], lengths: Iterable[int], arrangements: Any) -> Iterator[list[Any]]:
    return (list(array) for length in lengths for array in arrangements(values, length))


def valid_documents(schema: Any, resolve: Resolve, depth: int = 0) -> list[Any] | None:
    """Return the valid documents without repetition; None unless the schema lists them."""
    keywords = effective_keywords(schema) if isinstance(schema, dict) else {}
    if depth > _MAX_DEPTH:
        return None
    kinds = keywords.pop("type", None)
    match keywords:
        case {"$ref": reference, **rest} if not rest and kinds is None:
            return valid_documents(resolve(reference), resolve, depth + 1)
        case {"const": value, **rest} if not rest:
            values = [value]
        case {"enum": [*values], **rest} if not rest:
            pass
        case _ if not keywords and kinds == "boolean":
            return [True, False]
        case _:
            return None
    # A document of another type than `type` is invalid; such lists are left to the general rules.
    if kinds is not None and any(type_of(value) != kinds for value in values):
        return None
    return list({canonical_text(value): value for value in values}.values())


def restricted_names(schema: Any, resolve: Resolve, depth: int = 0) -> Schema:
    """Express `propertyNames` by `properties` or `patternProperties`. Raises UnenforceableKeyword."""
    if isinstance(schema, bool):
        return schema or {"additionalProperties": False}
    if not isinstance(schema, dict):
        raise InvalidKeyword("must be a schema, which is an object, true or false")
    keywords = effective_keywords(schema)
    kinds = keywords.pop("type", "string")
    enforceable_keywords("type", kinds, schema)  # raises InvalidKeyword for what is none
    if depth < _MAX_DEPTH and set(keywords) == {"$ref"}:
        return restricted_names(resolve(keywords["$ref"]), resolve, depth + 1)
    if "string" not in types_of({"type": kinds}):
        return {"additionalProperties": False}
    if not keywords:
        return True
    names = [keywords["const"]] if "const" in keywords else keywords.get("enum")
    if isinstance(names, list) and len(keywords) == 1:
        return {
            "properties": {name: True for name in names if isinstance(name, str)},
            "additionalProperties": False,
        }
    return {"patternProperties": {_name_pattern(keywords): True}, "additionalProperties": False}


def _name_pattern(keywords: Node) -> str:
    patterns = []
    for keyword, value in keywords.items():
        match keyword:
            case "pattern" if isinstance(value, str):
                patterns.append(value)
            case "minLength" if isinstance(value, int):
                patterns.append(rf"^[\s\S]{{{value},}}$")
            case "maxLength" if isinstance(value, int):
                patterns.append(rf"^[\s\S]{{0,{value}}}$")
            case "format" if value in _NAME_FORMATS:
                patterns.append(_NAME_FORMATS[value])
            case _:
                raise UnenforceableKeyword(f"'{keyword}' of names is not supported here")
    if len(patterns) == 1:
        return patterns[0]
    return "^" + "".join(rf"(?=[\s\S]*(?:{pattern}))" for pattern in patterns)
