"""Names that a deployment served in float16 cannot have: its paths, /{deployment}/v1/…, would hide other routes."""

from dragoman.dialects.registry import REGISTERED_DIALECTS

KEPT_FREE = frozenset({"app", "console", "public", "v3", "v5"})
"""First parts of paths that later routes may have, or that the settings can switch off."""

_SERVER_PARTS = frozenset({"admin", "docs", "health", "metrics", "openapi.json", "queue", "ready"})
"""First parts of the server's own paths."""

RESERVED_NAMES = KEPT_FREE.union(_SERVER_PARTS, *(each.first_path_parts for each in REGISTERED_DIALECTS.values()))
