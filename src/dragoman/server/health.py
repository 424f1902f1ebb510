"""The routes for liveness and readiness."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dragoman.gateway.routing.catalog import Catalog

PATHS = ("/health", "/ready")

READY_TIMEOUT_SECONDS = 2.0

_REUSE_SECONDS = 1.0
"""How long the accounts' last reply is reused: anyone may ask as often as they like."""

AccountsCheck = Callable[[float], Awaitable[bool]]
"""Asks the accounts, and returns whether they answered within the given seconds."""


class ReadinessCheck:
    """Asks the parts of the server whether a request would be served now."""

    def __init__(
        self, catalog: Catalog, accounts: AccountsCheck | None, timeout_seconds: float = READY_TIMEOUT_SECONDS
    ) -> None:
        """`accounts` is None if requests can be served without them."""
        self._catalog = catalog
        self._accounts = accounts
        self._timeout_seconds = timeout_seconds
        self._accounts_asked_at = -_REUSE_SECONDS
        self._are_accounts_answering = True

    async def problems(self) -> Mapping[str, Any]:
        """Return the parts that are not ready; nothing else. Models that cannot be loaded are named without a reason,
        which may name files: the operator finds it in the log."""
        deployments = self._catalog.deployments
        found = {
            "models": [each.name for each in deployments if not each.ready],
            "failed": [each.name for each in deployments if each.failure is not None],
            # An engine that has reported its context length was loaded.
            "not_answering": [each.name for each in deployments if not each.ready and each.context_length is not None],
            "accounts": [] if await self._check_accounts() else "not answering",
        }
        return {part: problem for part, problem in found.items() if problem}

    async def _check_accounts(self) -> bool:
        if self._accounts is not None and time.monotonic() >= self._accounts_asked_at + _REUSE_SECONDS:
            self._accounts_asked_at = time.monotonic()
            self._are_accounts_answering = await self._accounts(self._timeout_seconds)
        return self._are_accounts_answering


def routes(check: ReadinessCheck, *, names_models: bool, generation: int | None = None) -> list[BaseRoute]:
    """Return `/health`, which always answers 200, and `/ready`, which answers 503 until every part is ready.

    Both are for anyone. Unless it `names_models`, `/ready` counts them. It shows the `generation` of the settings.
    """
    shown = {} if generation is None else {"generation": generation}

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_request: Request) -> Response:
        problems = await check.problems()
        if not problems:
            return JSONResponse({"status": "ready", **shown})
        status = "loading" if problems.keys() == {"models"} else "unavailable"
        if not names_models:
            problems = {part: len(each) if isinstance(each, list) else each for part, each in problems.items()}
        return JSONResponse({"status": status, **shown, **problems}, 503, {"retry-after": "1"})

    return [Route(path, endpoint, methods=["GET"]) for path, endpoint in zip(PATHS, (health, ready), strict=True)]
