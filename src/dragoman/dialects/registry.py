"""The dialects' names, modules and paths, which can be read without importing a dialect.

Importing all routes takes a tenth of a second, which the parent process and the command line need not spend.
"""

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias


class RegisteredDialect(NamedTuple):
    """Where a dialect is, and which paths it has."""

    module: str
    """The module below `dragoman.dialects` with `routes`, `vendor_routes`, `OPERATIONS` and `ENDPOINT_CODECS`."""
    first_path_parts: frozenset[str] = frozenset()
    """The first parts of its `routes`. A deployment served in float16 cannot be called so. A test compares them."""


_INFERMATIC_PARTS = "chat completions detokenize embeddings engines models openai rerank reranking score tokenize utils"

REGISTERED_DIALECTS: dict[str, RegisteredDialect] = {
    "infermatic": RegisteredDialect("vendors.infermatic", frozenset(["v1", "v2", *_INFERMATIC_PARTS.split()])),
    "openai": RegisteredDialect("openai.routes", frozenset({"openai"})),
    "responses": RegisteredDialect("responses", frozenset({"openai", "v1"})),
    "empower": RegisteredDialect("vendors.empower", frozenset({"api", "empower"})),
    "scale": RegisteredDialect("vendors.scale", frozenset({"v4"})),
    "arcee": RegisteredDialect("vendors.arcee", frozenset({"api"})),
    "anthropic": RegisteredDialect("anthropic", frozenset({"anthropic", "v1"})),
    # Its first path part is a deployment's name, so its routes come last.
    "float16": RegisteredDialect("vendors.float16"),
}
"""In the order in which paths are compared."""

if TYPE_CHECKING:
    DialectName: TypeAlias = str
else:
    DialectName = Literal[tuple(REGISTERED_DIALECTS)]
