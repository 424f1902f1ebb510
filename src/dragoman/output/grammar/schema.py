"""Rewrites a client's JSON Schema into one that llguidance enforces exactly.

llguidance enforces most of JSON Schema. The rewriter reports the keywords that are not enforced exactly, with their
pointer, resolves every `$ref`, and rejects schemas that would crash or stall the compiler. The result has known
keywords with checked values in draft 2020-12, without annotations.
"""

import functools
import json
import math
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, Final, NamedTuple, NoReturn
from urllib.parse import unquote, urldefrag, urljoin

from dragoman.core.errors import BadRequest
from dragoman.output.grammar.disjointness import POINTER, with_proven_alternatives
from dragoman.output.grammar.finite import arrays_without_repetition, restricted_names
from dragoman.output.grammar.keywords import (
    InvalidKeyword,
    Node,
    Schema,
    UnenforceableKeyword,
    checked_pattern,
    enforceable_keywords,
    names_of,
)
from dragoman.output.grammar.lark import matching_texts
from dragoman.output.grammar.negation import negated
from dragoman.output.grammar.pattern_syntax import UnportablePattern
from dragoman.output.grammar.satisfiability import is_satisfiable
from dragoman.output.grammar.time_limit import check_time

UNENFORCED: Final = ("contains", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef")
"""Keywords that are never enforced."""

_ARRAY_KEYWORDS: Final = ("items", "minItems", "maxItems")
"""Keywords that the list of arrays under `uniqueItems` takes into account."""

_LEGACY_METASCHEMA = re.compile(r"https?://json-schema\.org/draft-0[467]/schema#?")
"""Drafts in which keywords beside `$ref` are ignored."""

_METASCHEMA = re.compile(r"https?://json-schema\.org/(draft-0[467]|draft/2019-09|draft/2020-12)/schema#?")

_MAX_DEPTH = 100
"""Limit of nesting, including `$ref`. The compiler recurses and overflows its stack at some 600."""

_MAX_COMMON_MULTIPLE = 50_000
"""Limit of the least common multiple of all `multipleOf`: llguidance needs as many states for combined schemas."""

_MAX_SCHEMAS = 2_000
_MAX_BYTES = 300_000
_MAX_COMPARISONS = 10_000


class EnforceableSchema(NamedTuple):
    """A rewritten schema."""

    schema: Schema
    unenforced: tuple[str, ...]
    """The keywords that were removed, each with its pointer: "'contains' at #/properties/a"."""


def enforceable_schema(
    schema: object,
    *,
    strict: bool,
    parameter: str,
    subject: str = "The schema",
    omitted_keywords: frozenset[str] = frozenset(),
) -> EnforceableSchema:
    """Rewrite the schema with keywords that are enforced exactly.

    Keywords that cannot be enforced, and those in `omitted_keywords`, are removed, or rejected if `strict`. Raises
    BadRequest of `parameter` with a message that names `subject`, keyword and pointer; also, strict or not, for a
    schema that is invalid, too large or unsatisfiable.
    """
    rewriter = _SchemaRewriter(
        schema, strict=strict, parameter=parameter, subject=subject, omitted_keywords=omitted_keywords
    )
    return EnforceableSchema(rewriter.rewrite(), tuple(dict.fromkeys(rewriter.unenforced)))


class _SchemaRewriter:
    """Rewrites one schema. A `pointer` is a JSON pointer into the client's schema, as a URI fragment."""

    def __init__(
        self, root: object, *, strict: bool, parameter: str, subject: str, omitted_keywords: frozenset[str]
    ) -> None:
        self._root = root
        self._strict = strict
        self._parameter = parameter
        self._subject = subject
        self._omitted_keywords = omitted_keywords
        self.unenforced: list[str] = []
        """The keywords that were removed, with their pointers."""
        self._names: dict[str, str] = {}
        """Pointer of a referenced schema → its name among the definitions."""
        self._definitions: dict[str, Schema] = {}
        self._depth = 0
        self._count = 0
        self._followed = 0
        """References that were followed while a schema was negated, each time anew."""
        self._nested_id = ""
        self._divisors: set[int | float] = set()
        members = root if isinstance(root, dict) else {}
        self._metaschema = str(members.get("$schema", ""))
        self._legacy = _LEGACY_METASCHEMA.fullmatch(self._metaschema) is not None
        self._id = str(members.get("$id", members.get("id", "")))

    def rewrite(self) -> Schema:
        """Rewrite the whole schema. Raises BadRequest."""
        try:
            if len(json.dumps(self._root, ensure_ascii=False, allow_nan=False).encode()) > _MAX_BYTES:
                self._refuse(f"is too large: more than {_MAX_BYTES} bytes")
            rewritten = self._schema(self._root, "#")
            unproven: list[str] = []
            rewritten = with_proven_alternatives(rewritten, self._definitions, None if self._strict else unproven)
            self.unenforced += [f"'oneOf' at {pointer}" for pointer in unproven]
        except ValueError:  # UnicodeEncodeError is one of them
            self._refuse("is no JSON: it has an infinite number or half a surrogate pair")
        except RecursionError:
            self._refuse("is nested too deeply")
        if self._nested_id and self._names:
            self._refuse(f"has '$id' at {self._nested_id}: beside '$ref', it is only supported at the root")
        if not is_satisfiable(rewritten, self._definitions):
            self._refuse("fits nothing: it is false, or its documents would be infinite")
        if isinstance(rewritten, dict) and self._definitions:
            return {**rewritten, "$defs": self._definitions}
        return rewritten

    def _schema(self, node: object, pointer: str) -> Schema:
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            self._refuse(f"is invalid: {pointer} must be a schema, which is an object, true or false")
        check_time()
        self._count += 1
        self._depth += 1
        if self._count > _MAX_SCHEMAS or self._depth > _MAX_DEPTH:
            self._refuse(f"is too large: more than {_MAX_SCHEMAS} schemas, or {_MAX_DEPTH} within each other")
        if self._legacy and "$ref" in node:
            node = {"$ref": node["$ref"]}
        rewritten: Node = {}
        lists_arrays = False
        for keyword, value in node.items():
            try:
                addition = self._keyword(keyword, value, node, f"{pointer}/{_pointer_token(keyword)}")
                if "allOf" in addition:
                    addition["allOf"] = [*rewritten.get("allOf", ()), *addition["allOf"]]
                rewritten |= addition
                lists_arrays |= keyword == "uniqueItems" and bool(addition)
            except InvalidKeyword as error:
                self._refuse(f"is invalid: '{keyword}' at {pointer} {error}")
            except UnenforceableKeyword as error:
                self._omit(keyword, pointer, str(error))
        self._depth -= 1
        if lists_arrays:
            rewritten = {keyword: value for keyword, value in rewritten.items() if keyword not in _ARRAY_KEYWORDS}
        return rewritten

    # Keywords. These methods raise InvalidKeyword and UnenforceableKeyword.

    def _keyword(self, keyword: str, value: Any, node: Node, pointer: str) -> Node:
        """Rewrite a keyword of `node` into none, one or several keywords."""
        if keyword in self._omitted_keywords:
            raise UnenforceableKeyword
        match keyword:
            case "allOf" | "anyOf":
                return {keyword: self._list(value, pointer)}
            case "oneOf":
                return {keyword: self._list(value, pointer), POINTER: pointer.removesuffix("/oneOf")}
            case "properties":
                return {keyword: self._map(value, pointer)}
            case "patternProperties":
                schemas = self._map(value, pointer)
                patterns = _patterns(node)
                return {keyword: {patterns[pattern]: schema for pattern, schema in schemas.items()}}
            case "additionalProperties":
                return {keyword: self._schema(value, pointer)} if self._enforces_patterns(node) else {}
            case "prefixItems":
                has_none = self._legacy or "2019-09" in self._metaschema or isinstance(node.get("items"), list)
                return {} if has_none else {keyword: self._list(value, pointer)}
            case "items":
                is_list = isinstance(value, list)
                return (
                    {"prefixItems": self._list(value, pointer)} if is_list else {keyword: self._schema(value, pointer)}
                )
            case "additionalItems":
                return {"items": self._schema(value, pointer)} if isinstance(node.get("items"), list) else {}
            case "multipleOf":
                self._divisors.add(enforceable_keywords(keyword, value, node)[keyword])
                if _common_multiple(self._divisors) > _MAX_COMMON_MULTIPLE:
                    raise UnenforceableKeyword("its least common multiple with others in the schema is too large")
            case "$ref":
                return {keyword: self._reference(value)}
            case "$id" | "id":
                self._record_id(keyword, value, node, pointer)
            case "$schema":
                if value != self._metaschema or not _METASCHEMA.fullmatch(value):
                    raise UnenforceableKeyword(
                        "only the drafts 4, 6, 7, 2019-09 and 2020-12 are known, one for the whole schema"
                    )
            case "not":
                return {"allOf": [self._schema(negated(value, self._referenced), pointer)]}
            case "if":
                return self._condition(node, pointer) if "then" in node or "else" in node else {}
            case "dependencies" | "dependentRequired" | "dependentSchemas":
                return self._dependencies(value, pointer)
            case "propertyNames":
                names = restricted_names(value, self._referenced)
                return {} if names is True else {"allOf": [self._schema(names, pointer)]}
            case "uniqueItems" if value is True:
                arrays = arrays_without_repetition(node, self._referenced)
                return {} if arrays is True else {"allOf": [self._schema(arrays, pointer)]}
            case _ if keyword in UNENFORCED:
                raise UnenforceableKeyword
        return enforceable_keywords(keyword, value, node)

    def _list(self, value: Any, pointer: str) -> list[Schema]:
        if not isinstance(value, list) or not value:
            raise InvalidKeyword("must be an array of schemas, and not empty")
        return [self._schema(part, f"{pointer}/{index}") for index, part in enumerate(value)]

    def _map(self, value: Any, pointer: str) -> dict[str, Schema]:
        if not isinstance(value, dict):
            raise InvalidKeyword("must be an object of schemas")
        return {name: self._schema(part, f"{pointer}/{_pointer_token(name)}") for name, part in value.items()}

    def _condition(self, node: Node, pointer: str) -> Node:
        """Rewrite `if`, `then` and `else` as two alternatives."""
        parent = pointer.rpartition("/")[0]
        holds = [self._schema(node["if"], pointer), self._schema(node.get("then", True), f"{parent}/then")]
        fails = [self._schema(negated(node["if"], self._referenced), pointer)]
        return {
            "allOf": [
                {
                    "anyOf": [
                        {"allOf": holds},
                        {"allOf": [*fails, self._schema(node.get("else", True), f"{parent}/else")]},
                    ]
                }
            ]
        }

    def _dependencies(self, value: Any, pointer: str) -> Node:
        """Rewrite what the presence of properties requires, as alternatives: it is absent, or that is valid."""
        if not isinstance(value, dict):
            raise InvalidKeyword("must be an object")
        rewritten: list[Schema] = []
        for name, dependent in value.items():
            needed = {"required": dependent} if isinstance(dependent, list) else dependent
            present = [{"required": [name]}, self._schema(needed, f"{pointer}/{_pointer_token(name)}")]
            rewritten.append({"anyOf": [{"properties": {name: False}}, {"allOf": present}]})
        return {"allOf": rewritten} if rewritten else {}

    def _enforces_patterns(self, node: Node) -> bool:
        """Whether `patternProperties` is enforced. If not, names that match a pattern would count as additional."""
        try:
            _patterns(node)
        except (InvalidKeyword, UnenforceableKeyword):
            return False
        return "patternProperties" not in self._omitted_keywords

    def _record_id(self, keyword: str, value: Any, node: Node, pointer: str) -> None:
        is_base = isinstance(value, str) and not value.startswith("#") and "$ref" not in node
        if pointer != f"#/{keyword}" and is_base and (keyword == "$id" or "draft-04" in self._metaschema):
            self._nested_id = pointer

    # References

    def _referenced(self, value: Any) -> Any:
        """Return the client's schema that the value of `$ref` refers to."""
        if not isinstance(value, str):
            raise InvalidKeyword("must be a string")
        self._followed += 1
        if self._followed > _MAX_SCHEMAS:
            self._refuse(f"is too large: it follows more than {_MAX_SCHEMAS} references where it negates")
        return self._resolve(self._target_pointer(value))

    def _reference(self, value: Any) -> str:
        """Make the referenced schema a definition and return the reference to it."""
        if not isinstance(value, str):
            raise InvalidKeyword("must be a string")
        target = self._target_pointer(value)
        if target == "#":
            return target
        if target not in self._names:
            self._names[target] = name = str(len(self._names))
            self._definitions[name] = self._schema(self._resolve(target), target)
        return f"#/$defs/{self._names[target]}"

    def _target_pointer(self, reference: str) -> str:
        """Return the pointer of a reference."""
        try:
            base, fragment = urldefrag(urljoin(self._id, reference))
        except ValueError as error:
            raise InvalidKeyword(f"is no URI: {error}") from error
        if base not in ("", urldefrag(self._id)[0]):
            raise InvalidKeyword(f"refers to {reference!r}; only places inside the schema itself can be referred to")
        fragment = unquote(fragment)
        if not fragment or fragment.startswith("/"):
            return f"#{fragment}"
        if fragment not in self._anchors:
            raise InvalidKeyword(f"refers to {reference!r}, and there is no such anchor")
        return self._anchors[fragment]

    @functools.cached_property
    def _anchors(self) -> dict[str, str]:
        """Pointers of named schemas: by `$anchor`, or by "#name" in the `$id` or `id` of drafts 4 to 7."""
        names: dict[str, str] = {}
        for pointer, node in _schemas_in(self._root, "#"):
            for name in (f"#{node.get('$anchor', '')}", node.get("$id"), node.get("id")):
                if isinstance(name, str) and name.startswith("#"):
                    names.setdefault(name[1:], pointer)
        return names

    def _resolve(self, pointer: str) -> Any:
        """Return the value at a pointer."""
        node: Any = self._root
        for token in pointer.split("/")[1:]:
            name = token.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and name in node:
                node = node[name]
            elif isinstance(node, list) and name.isascii() and name.isdigit() and int(name) < len(node):
                node = node[int(name)]
            else:
                raise InvalidKeyword(f"refers to '{pointer}', and there is nothing there")
        return node

    # Refusals

    def _omit(self, keyword: str, pointer: str, reason: str) -> None:
        if self._strict:
            because = f" ({reason})" if reason else ""
            self._refuse(f"cannot be enforced: '{keyword}' at {pointer} is not supported{because}")
        self.unenforced.append(f"'{keyword}' at {pointer}")

    def _refuse(self, problem: str) -> NoReturn:
        raise BadRequest(f"{self._subject} {problem}", self._parameter)


def _common_multiple(numbers: Iterable[int | float]) -> int:
    """Return the least common multiple without decimal points: 25 for 0.25 and 0.05."""
    decimals = [Decimal(repr(number)).normalize() for number in numbers]
    places = max(0, *(-int(number.as_tuple().exponent) for number in decimals))
    return math.lcm(*(int(number.scaleb(places)) for number in decimals))


def _patterns(node: Node) -> dict[str, str]:
    """Return a safe form of each pattern of `patternProperties`. Raises InvalidKeyword and UnenforceableKeyword.

    A name may match a pattern in one dialect of regular expressions and be additional in another. If additional names
    are forbidden, so is this name. If they are allowed, its value must be valid under the pattern's schema.
    """
    others = node.get("additionalProperties", True)
    patterns = names_of("patternProperties", node)
    wide = {pattern: checked_pattern(pattern, wide=True) for pattern in patterns}
    narrow = {pattern: checked_pattern(pattern) for pattern in patterns}
    if wide != narrow and not isinstance(others, bool):
        raise UnenforceableKeyword("its patterns differ between dialects, and additional names have another schema")
    names = {*names_of("properties", node), *names_of("required", node)}
    if len(names) * len(patterns) > _MAX_COMPARISONS:
        raise UnenforceableKeyword("there are too many names and patterns")
    for pattern in patterns:
        try:
            fitting = matching_texts(wide[pattern], names)
        except UnportablePattern as error:
            raise UnenforceableKeyword(f"in the pattern {pattern!r}, {error}") from error
        if fitting:
            raise UnenforceableKeyword(f"{pattern!r} fits {min(fitting)!r}, which stands in 'properties' or 'required'")
    if len(set(narrow.values())) < len(patterns):
        raise UnenforceableKeyword("two of its patterns mean the same")
    return wide if others else narrow


def _schemas_in(node: Any, pointer: str) -> Iterator[tuple[str, Node]]:
    """Yield every schema object in a schema with its pointer."""
    if not isinstance(node, dict):
        return
    yield pointer, node
    for keyword, value in node.items():
        if keyword in ("allOf", "anyOf", "oneOf", "prefixItems", "items") and isinstance(value, list):
            for index, part in enumerate(value):
                yield from _schemas_in(part, f"{pointer}/{keyword}/{index}")
        elif keyword in ("properties", "patternProperties", "$defs", "definitions") and isinstance(value, dict):
            for name, part in value.items():
                yield from _schemas_in(part, f"{pointer}/{keyword}/{_pointer_token(name)}")
        elif keyword in ("items", "additionalItems", "additionalProperties"):
            yield from _schemas_in(value, f"{pointer}/{keyword}")


def _pointer_token(name: str) -> str:
    """Escape a name as a token of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
