"""Names that a deployment served in float16 cannot have: its paths, /{deployment}/v1/…, would hide other routes.

Written down, because importing all routes takes a tenth of a second of each start; a test compares them.
"""

KEPT_FREE = frozenset({"app", "console", "public", "v3", "v5"})
"""First parts of paths that later routes may have, or that the settings can switch off."""

RESERVED_NAMES = KEPT_FREE | {
    "admin",
    "anthropic",
    "api",
    "chat",
    "completions",
    "detokenize",
    "docs",
    "embeddings",
    "empower",
    "engines",
    "health",
    "metrics",
    "models",
    "openai",
    "openapi.json",
    "queue",
    "ready",
    "rerank",
    "reranking",
    "score",
    "tokenize",
    "utils",
    "v1",
    "v2",
    "v4",
}
