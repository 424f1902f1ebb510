"""Time goes by in these tests as it does: a pause is a second."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from dragoman.core.errors import Limited, Unauthenticated
from dragoman.core.service import Caller
from dragoman.gateway.guesses import MOST_GUESSES, PAUSE_SECONDS, Guesses
from tests.support.apps import KEY, client_of, echo_app
from tests.support.metered import Customer, metered_app, sqlite_customer

WRONG = Unauthenticated("unknown", "sk-wrong")


def caller(address: str) -> Caller:
    return Caller("0" * 32, "sk-wrong", address)


async def answers(guesses: Guesses, address: str, count: int) -> list[type[Exception]]:
    return [
        type(each) for each in await asyncio.gather(*(guesses.answer(caller(address), WRONG) for _ in range(count)))
    ]


async def test_the_first_wrong_keys_are_told_at_once_and_further_ones_later() -> None:
    guesses = Guesses()
    began = time.monotonic()
    told = [asyncio.create_task(guesses.answer(caller("10.0.0.1"), WRONG)) for _ in range(MOST_GUESSES)]
    await asyncio.sleep(0)  # One turn of the event loop is enough for all.
    assert [type(task.result()) for task in told] == [Unauthenticated] * MOST_GUESSES
    error = await guesses.answer(caller("10.0.0.1"), WRONG)
    assert time.monotonic() - began >= PAUSE_SECONDS
    assert isinstance(error, Limited)
    assert 1 <= error.retry_after <= 60


async def test_other_addresses_are_not_slowed_and_a_network_of_ipv6_counts_as_one() -> None:
    guesses = Guesses()
    await answers(guesses, "2001:db8::1", MOST_GUESSES)
    assert await answers(guesses, "2001:db8:0:1::1", 1) == [Unauthenticated]
    assert await answers(guesses, "10.0.0.1", MOST_GUESSES) == [Unauthenticated] * MOST_GUESSES
    assert await answers(guesses, "2001:db8::ffff", 1) == [Limited]


async def test_a_key_that_is_missing_or_was_good_once_is_no_guess() -> None:
    guesses = Guesses()
    for fault in ("missing", "disabled", "expired", "malformed"):
        for _ in range(MOST_GUESSES + 1):
            error = Unauthenticated(fault)
            assert await guesses.answer(caller("10.0.0.1"), error) is error


async def test_of_too_many_addresses_those_are_forgotten_that_guessed_longest_ago() -> None:
    guesses = Guesses(most_addresses=2)
    await answers(guesses, "10.0.0.1", MOST_GUESSES)
    await answers(guesses, "10.0.0.2", MOST_GUESSES)
    await answers(guesses, "10.0.0.3", 1)
    assert await answers(guesses, "10.0.0.1", 1) == [Unauthenticated]


@pytest.fixture
async def customer(tmp_path: Path) -> AsyncIterator[Customer]:
    with sqlite_customer(tmp_path) as customer:
        yield customer


async def models(client: httpx.AsyncClient, key: str, address: str = "") -> int:
    headers = {"authorization": f"Bearer {key}", "x-forwarded-for": address}
    return (await client.get("/v1/models", headers=headers)).status_code


async def test_50_guesses_a_second_are_slowed_and_nobody_else_is(customer: Customer, tmp_path: Path) -> None:
    key = customer.new_key()
    async with metered_app(customer, tmp_path / "j", proxies=["127.0.0.1"]) as app, client_of(app) as client:
        told: list[str] = []

        async def ask(name: str, key: str, address: str) -> int:
            status = await models(client, key, address)
            told.append(name)
            return status

        guesses = [ask("guess", f"sk-guess-{n}", "10.0.0.1") for n in range(50)]
        good, other = ask("good", key, "10.0.0.1"), ask("other", "sk-wrong", "10.0.0.2")
        *statuses, of_good, of_other = await asyncio.gather(*guesses, good, other)
    assert (of_good, of_other) == (200, 401)
    # Neither a good key of the same address nor a wrong one of another waits.
    assert max(told.index("good"), told.index("other")) < 50
    assert (statuses.count(401), statuses.count(429)) == (MOST_GUESSES, 50 - MOST_GUESSES)


@pytest.mark.parametrize("proxies", [[], ["10.9.9.9"]])
async def test_an_address_that_no_proxy_of_ours_told_is_not_believed(proxies: list[str]) -> None:
    async with client_of(echo_app(keys=[KEY], proxies=proxies)) as client:
        told = await asyncio.gather(*(models(client, "sk-wrong", f"10.0.0.{n}") for n in range(MOST_GUESSES + 1)))
    assert sorted(told) == [401] * MOST_GUESSES + [429]


async def test_the_address_is_what_the_last_of_our_proxies_was_asked_by() -> None:
    proxies = ["127.0.0.1", "10.9.9.9"]
    async with client_of(echo_app(keys=[KEY], proxies=proxies)) as client:
        forged = (f"{n}.0.0.1, 10.0.0.1, 10.9.9.9" for n in range(MOST_GUESSES + 1))
        told = await asyncio.gather(*(models(client, "sk-wrong", addresses) for addresses in forged))
    assert sorted(told) == [401] * MOST_GUESSES + [429]
