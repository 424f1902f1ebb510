"""The routes for liveness and readiness."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dragoman.gateway.routing.catalog import Catalog

PATHS = ("/health", "/ready")


def routes(catalog: Catalog) -> list[BaseRoute]:
    """Return `/health`, which always answers 200, and `/ready`, which answers 503 until every model is loaded."""

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_request: Request) -> Response:
        loading = [deployment.name for deployment in catalog.deployments if not deployment.engine.ready]
        if loading:
            return JSONResponse({"status": "loading", "models": loading}, 503, {"retry-after": "1"})
        return JSONResponse({"status": "ready"})

    return [Route(path, endpoint, methods=["GET"]) for path, endpoint in zip(PATHS, (health, ready), strict=True)]
