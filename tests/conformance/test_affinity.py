"""Conversations keep their replica where nothing else decides, in every dialect."""

import httpx
import pytest

from dragoman.engines.echo import EchoEngine
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.server.app import App
from tests.support.apps import client_of, echo_app
from tests.support.dialects.clients import DialectClient

SESSIONS = ("a", "b", "c")
TURNS = 4


def app_of_four() -> App:
    replicas = tuple(Replica(f"echo/{number}", EchoEngine()) for number in range(4))
    return echo_app(engine=Deployment(name="echo", replicas=replicas))


async def upstreams(
    client: httpx.AsyncClient, dialect: DialectClient, headers: dict[str, str] | None = None, **request: str
) -> set[str]:
    """Return who answers the same request several times."""
    body = dialect.body("echo", "Hi", **request)
    found = [await client.post(dialect.path("echo"), json=body, headers=headers) for _ in range(TURNS)]
    assert {response.status_code for response in found} == {200}
    return {response.headers["x-dragoman-upstream"] for response in found}


@pytest.mark.parametrize("header", ["x-session-id", "x-claude-code-session-id"])
async def test_the_requests_of_a_session_go_to_one_replica(dialect: DialectClient, header: str) -> None:
    async with client_of(app_of_four()) as client:
        for session in SESSIONS:
            assert len(await upstreams(client, dialect, headers={header: session})) == 1
        assert len(await upstreams(client, dialect)) > 1, "without a session, cold requests are spread"


async def test_a_key_in_the_body_is_an_affinity_where_the_vendor_has_such_fields(dialect: DialectClient) -> None:
    if dialect.name not in ("openai", "responses", "infermatic"):
        pytest.skip("this dialect has no such fields")
    async with client_of(app_of_four()) as client:
        for session in SESSIONS:
            assert len(await upstreams(client, dialect, prompt_cache_key=session)) == 1
            assert len(await upstreams(client, dialect, user=session)) == 1
            both = await upstreams(client, dialect, prompt_cache_key=session, user="x")
            assert both == await upstreams(client, dialect, prompt_cache_key=session)
