"""Names that a deployment served in float16 cannot have: its paths, /{deployment}/v1/…, would hide other routes."""

from collections.abc import Iterator

from dragoman.server import admin, health, metrics, openapi
from dragoman.server.dialects import OPERATIONS

_KEPT_FREE = frozenset({"app", "public", "v2", "v3", "v5"})
"""First parts of paths that later routes may have."""


def _paths() -> Iterator[str]:
    yield from (*health.PATHS, *metrics.PATHS, *openapi.PATHS)
    for operations in (*OPERATIONS.values(), admin.OPERATIONS):
        yield from (operation.path for operation in operations)


RESERVED_NAMES = _KEPT_FREE | {path.split("/")[1] for path in _paths() if not path.startswith("/{")}
