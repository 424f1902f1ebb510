"""How a worker connects to the upstreams of the settings."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import msgspec
import pytest

from dragoman.core.embedding import ModelKind
from dragoman.engines.upstream.engine import UpstreamEngine
from dragoman.server.replicas import connect_upstream
from dragoman.server.upstream_settings import UpstreamSettings
from tests.support.scripted_upstream import response, running_upstream
from tests.support.timeouts import TEST_TIMEOUT_SECONDS
from tests.support.upstream_engines import ModelServer, sending

LISTED: dict[str, object] = {"data": [{"id": "m"}, {"id": "other"}]}
SETTINGS = UpstreamSettings(url="http://127.0.0.1:1")


@contextlib.asynccontextmanager
async def probed(
    server: ModelServer, settings: UpstreamSettings, kind: ModelKind = "generation"
) -> AsyncGenerator[UpstreamEngine]:
    """Run the server and yield the engine of an upstream that has probed it once."""
    async with running_upstream(server.upstream) as url, asyncio.timeout(TEST_TIMEOUT_SECONDS):
        engine = connect_upstream("m/0", msgspec.structs.replace(settings, url=url), "m", kind).engine
        assert isinstance(engine, UpstreamEngine)
        await engine.probe()
        yield engine
        await engine.close()


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize("kind", ["generation", "embeddings"])
async def test_a_server_without_a_list_of_models_is_ready_if_the_settings_say_so(kind: ModelKind, status: int) -> None:
    def server() -> ModelServer:
        return ModelServer(sending(response(status)))

    async with probed(server(), SETTINGS, kind) as engine:
        assert not engine.ready
    unlisted = msgspec.structs.replace(SETTINGS, lists_models=False, context_length=100)
    async with probed(server(), unlisted, kind) as engine:
        assert engine.ready
        assert engine.context_length == 100
        await engine.probe()
        assert engine.ready


@pytest.mark.parametrize("failure", [401, 500])
async def test_a_server_without_a_list_of_models_that_fails_is_not_ready(failure: int) -> None:
    unlisted = msgspec.structs.replace(SETTINGS, lists_models=False)
    async with probed(ModelServer(sending(response(failure))), unlisted) as engine:
        assert not engine.ready


async def test_the_settings_may_say_how_long_the_context_is() -> None:
    async with probed(ModelServer(LISTED), SETTINGS) as engine:
        assert (engine.ready, engine.context_length) == (True, None)
    async with probed(ModelServer(LISTED), msgspec.structs.replace(SETTINGS, context_length=100)) as engine:
        assert (engine.ready, engine.context_length) == (True, 100)
