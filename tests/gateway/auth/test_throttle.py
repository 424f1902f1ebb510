"""These tests use the real clock: a delay lasts a second."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from dragoman.core.context import Caller
from dragoman.core.errors import Limited, Unauthenticated
from dragoman.gateway.auth.throttle import DELAY_SECONDS, MAX_FAILURES, AuthFailureLimiter
from tests.support.apps import KEY, client_of, echo_app
from tests.support.metered import AccountFixture, metered_app, sqlite_account

WRONG = Unauthenticated("unknown").with_key("sk-wrong")


def caller(address: str) -> Caller:
    return Caller(request_id="0" * 32, key="sk-wrong", address=address)


async def throttled_errors(failures: AuthFailureLimiter, address: str, count: int) -> list[type[Exception]]:
    return [
        type(each) for each in await asyncio.gather(*(failures.throttle(caller(address), WRONG) for _ in range(count)))
    ]


async def test_the_first_wrong_keys_are_rejected_immediately_and_further_ones_after_a_delay() -> None:
    failures = AuthFailureLimiter()
    started_at = time.monotonic()
    results = [asyncio.create_task(failures.throttle(caller("10.0.0.1"), WRONG)) for _ in range(MAX_FAILURES)]
    await asyncio.sleep(0)  # One turn of the event loop is enough for all.
    assert [type(task.result()) for task in results] == [Unauthenticated] * MAX_FAILURES
    error = await failures.throttle(caller("10.0.0.1"), WRONG)
    assert time.monotonic() - started_at >= DELAY_SECONDS
    assert isinstance(error, Limited)
    assert 1 <= error.retry_after <= 60


async def test_other_addresses_are_not_delayed_and_an_ipv6_network_counts_as_one() -> None:
    failures = AuthFailureLimiter()
    await throttled_errors(failures, "2001:db8::1", MAX_FAILURES)
    assert await throttled_errors(failures, "2001:db8:0:1::1", 1) == [Unauthenticated]
    assert await throttled_errors(failures, "10.0.0.1", MAX_FAILURES) == [Unauthenticated] * MAX_FAILURES
    assert await throttled_errors(failures, "2001:db8::ffff", 1) == [Limited]


async def test_ipv4_clients_of_a_socket_that_listens_on_ipv6_are_not_one_client() -> None:
    failures = AuthFailureLimiter()
    await throttled_errors(failures, "::ffff:10.0.0.1", MAX_FAILURES)
    assert await throttled_errors(failures, "::ffff:10.0.0.2", 1) == [Unauthenticated]
    assert await throttled_errors(failures, "10.0.0.1", 1) == [Limited]


async def test_missing_and_formerly_valid_keys_are_not_counted_as_failures() -> None:
    failures = AuthFailureLimiter()
    for fault in ("missing", "disabled", "expired", "malformed"):
        for _ in range(MAX_FAILURES + 1):
            error = Unauthenticated(fault)
            assert await failures.throttle(caller("10.0.0.1"), error) is error


async def test_the_least_recently_failing_addresses_are_evicted_first() -> None:
    failures = AuthFailureLimiter(max_addresses=2)
    await throttled_errors(failures, "10.0.0.1", MAX_FAILURES)
    await throttled_errors(failures, "10.0.0.2", MAX_FAILURES)
    await throttled_errors(failures, "10.0.0.3", 1)
    assert await throttled_errors(failures, "10.0.0.1", 1) == [Unauthenticated]


@pytest.fixture
async def account_fixture(tmp_path: Path) -> AsyncIterator[AccountFixture]:
    with sqlite_account(tmp_path) as account_fixture:
        yield account_fixture


async def models(client: httpx.AsyncClient, key: str, address: str = "") -> int:
    headers = {"authorization": f"Bearer {key}", "x-forwarded-for": address}
    return (await client.get("/v1/models", headers=headers)).status_code


async def test_50_wrong_keys_a_second_are_delayed_and_no_other_request_is(
    account_fixture: AccountFixture, tmp_path: Path
) -> None:
    key = account_fixture.new_key()
    async with metered_app(account_fixture, tmp_path / "j", proxies=["127.0.0.1"]) as app, client_of(app) as client:
        results: list[str] = []

        async def send(name: str, key: str, address: str) -> int:
            status = await models(client, key, address)
            results.append(name)
            return status

        failures = [send("wrong", f"sk-wrong-{n}", "10.0.0.1") for n in range(50)]
        valid, other = send("valid", key, "10.0.0.1"), send("other", "sk-wrong", "10.0.0.2")
        *statuses, of_valid, of_other = await asyncio.gather(*failures, valid, other)
    assert (of_valid, of_other) == (200, 401)
    # Neither a valid key from the same address nor a wrong one from another is delayed.
    assert max(results.index("valid"), results.index("other")) < 50
    assert (statuses.count(401), statuses.count(429)) == (MAX_FAILURES, 50 - MAX_FAILURES)


@pytest.mark.parametrize("proxies", [[], ["10.9.9.9"]])
async def test_a_forwarded_address_from_an_untrusted_proxy_is_ignored(proxies: list[str]) -> None:
    async with client_of(echo_app(keys=[KEY], trusted_proxies=proxies)) as client:
        results = await asyncio.gather(*(models(client, "sk-wrong", f"10.0.0.{n}") for n in range(MAX_FAILURES + 1)))
    assert sorted(results) == [401] * MAX_FAILURES + [429]


async def test_the_client_address_is_the_peer_of_the_outermost_trusted_proxy() -> None:
    proxies = ["127.0.0.1", "10.9.9.9"]
    async with client_of(echo_app(keys=[KEY], trusted_proxies=proxies)) as client:
        forged = (f"{n}.0.0.1, 10.0.0.1, 10.9.9.9" for n in range(MAX_FAILURES + 1))
        results = await asyncio.gather(*(models(client, "sk-wrong", addresses) for addresses in forged))
    assert sorted(results) == [401] * MAX_FAILURES + [429]


@pytest.mark.parametrize("proxies", [["127.0.0.0/8"], ["::ffff:127.0.0.1", "10.9.0.0/16"]])
async def test_the_port_of_a_forwarded_address_makes_no_other_client(proxies: list[str]) -> None:
    async with client_of(echo_app(keys=[KEY], trusted_proxies=proxies)) as client:
        ports = (f"10.0.0.1:{4000 + n}" for n in range(MAX_FAILURES + 1))
        results = await asyncio.gather(*(models(client, "sk-wrong", address) for address in ports))
    assert sorted(results) == [401] * MAX_FAILURES + [429]


async def test_a_forwarded_text_that_is_no_address_makes_the_proxy_the_client() -> None:
    async with client_of(echo_app(keys=[KEY], trusted_proxies=["127.0.0.1"])) as client:
        forged = (f"10.0.0.1, hidden-{n}" for n in range(MAX_FAILURES + 1))
        results = await asyncio.gather(*(models(client, "sk-wrong", address) for address in forged))
    assert sorted(results) == [401] * MAX_FAILURES + [429]
