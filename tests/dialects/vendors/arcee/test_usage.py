"""Balance and usage in arcee's shapes, out of a ledger in which something was bought."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from dragoman.accounts.administration.keys import KeyRules
from tests.support.accounting import accounting_at, open_ledger_harness
from tests.support.apps import KEY, client_of, echo_app
from tests.support.ledger_harness import LedgerHarness

USAGE = "/api/v1/usage"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/accounts.db"


@pytest.fixture
def harness(url: str) -> Iterator[LedgerHarness]:
    """Two requests to one model, a request to another with another key, and one without a key."""
    with open_ledger_harness(url) as opened:
        for model in ("parrot", "parrot"):
            opened.settle(opened.admit(10, 10, model=model).request_id, 10, 0, 5)
        opened.settle(opened.admit(10, 10, key_digest=None).request_id)
        first = opened.secret
        opened.use_new_key(KeyRules())
        opened.settle(opened.admit(20, 10, model="owl").request_id, 20, 0, 7)
        opened.secret = first
        yield opened


@pytest.fixture
async def client(harness: LedgerHarness, url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    with accounting_at(url, tmp_path) as books:
        async with books.opened(), client_of(echo_app(accounting=books), key=harness.secret) as client:
            yield client


async def get(client: httpx.AsyncClient, name: str, **query: Any) -> Any:
    response = await client.get(f"{USAGE}/{name}", params=query)
    assert response.status_code == 200, response.text
    return response.json()


def today() -> date:
    return datetime.now(UTC).date()


async def test_the_balance_is_a_number_of_units(client: httpx.AsyncClient, harness: LedgerHarness) -> None:
    assert harness.account.balance == 1_000_000 - 2 * (10 * 10 + 5 * 30)
    response = await client.get(f"{USAGE}/credits")
    assert response.text == '{"credit_balance":0.0009995}'


async def test_statistics_have_a_row_for_each_day_key_and_model(
    client: httpx.AsyncClient, harness: LedgerHarness
) -> None:
    parrot, owl = sorted(await get(client, "stats"), key=lambda row: int(row["user_id"]))
    day = today().isoformat()
    assert parrot == {
        "id": f"{harness.account_id}-{parrot['user_id']}-{day}-parrot",
        "user_id": parrot["user_id"],
        "org_id": str(harness.account_id),
        "email": None,
        "model": "parrot",
        "source": "api",
        "input_tokens": 20,
        "output_tokens": 10,
        "total_tokens": 30,
        "total_requests": 2,
        "date": day,
        "created_at": f"{day}T00:00:00Z",
    }
    assert (owl["model"], owl["total_tokens"], owl["user_id"] != parrot["user_id"]) == ("owl", 27, True)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ({"model": "owl"}, 1),
        ({"model": "nobody's"}, 0),
        ({"source": "api", "model_provider": "dragoman"}, 2),
        ({"source": "app"}, 0),
        ({"model_provider": "openai"}, 0),
        ({"limit": "1"}, 1),
        ({"offset": "1"}, 1),
        ({"offset": "2"}, 0),
    ],
)
async def test_statistics_are_narrowed(client: httpx.AsyncClient, query: dict[str, str], rows: int) -> None:
    assert len(await get(client, "stats", **query)) == rows


async def test_both_ends_of_the_range_count(client: httpx.AsyncClient) -> None:
    now, tomorrow = today().isoformat(), (today() + timedelta(days=1)).isoformat()
    assert len(await get(client, "stats", start_date=now, end_date=now)) == 2
    assert len(await get(client, "stats", start_date=f"{now}T23:59:59Z")) == 2
    assert await get(client, "stats", start_date=tomorrow) == []
    assert (await get(client, "summary", start_date=tomorrow))["total_requests"] == 0


async def test_the_summary_adds_everything_up(client: httpx.AsyncClient) -> None:
    summary = await get(client, "summary")
    assert summary == {
        "total_input_tokens": 40,
        "total_output_tokens": 17,
        "total_tokens": 57,
        "total_requests": 3,
        "unique_users": 2,
        "unique_models": 2,
        "unique_providers": 1,
        "api_usage": 3,
        "app_usage": 0,
        "date_range_days": 1,
    }
    week_ago = (today() - timedelta(days=6)).isoformat()
    assert (await get(client, "summary", start_date=week_ago))["date_range_days"] == 7
    assert (await get(client, "summary", end_date=week_ago))["date_range_days"] == 0


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"start_date": "yesterday"}, "start_date"),
        ({"end_date": "2026-02-30"}, "end_date"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"offset": "-1"}, "offset"),
        ({"limit": "ten"}, "limit"),
    ],
)
async def test_an_invalid_query_is_rejected(client: httpx.AsyncClient, query: dict[str, str], field: str) -> None:
    response = await client.get(f"{USAGE}/stats", params=query)
    assert response.status_code == 422
    assert [detail["loc"] for detail in response.json()["detail"]] == [["query", field]]


@pytest.mark.parametrize("name", ["credits", "stats", "summary"])
async def test_a_caller_without_an_account_gets_404(client: httpx.AsyncClient, name: str) -> None:
    client.headers["authorization"] = "Bearer sk-unknown-0123456789"
    response = await client.get(f"{USAGE}/{name}")
    assert response.status_code == 401
    assert response.json() == {"detail": "Authentication failed due to invalid or missing API key"}


@pytest.mark.parametrize("name", ["credits", "stats", "summary"])
async def test_a_server_without_accounts_has_no_usage(name: str) -> None:
    for app in (echo_app(), echo_app(keys=[KEY])):
        async with client_of(app, key=KEY) as client:
            response = await client.get(f"{USAGE}/{name}")
            assert response.status_code == 404
            assert response.json() == {"detail": "This server records no usage"}


async def test_on_a_host_of_its_own_usage_is_under_v1_too(harness: LedgerHarness, url: str, tmp_path: Path) -> None:
    with accounting_at(url, tmp_path) as books:
        app = echo_app(accounting=books, hosts={"a.example": "arcee"})
        async with books.opened(), client_of(app, "a.example", key=harness.secret) as client:
            assert (await client.get("/v1/usage/credits")).json() == {"credit_balance": 0.0009995}
