"""Work that precedes admission: rendering and tokenizing is done for those who may send a request, in turn."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import KeyRules, create_key
from dragoman.core.request import Prompt
from dragoman.engines.echo import EchoEngine
from tests.support.apps import client_of
from tests.support.dialects.clients import DialectClient
from tests.support.metered import metered_app, sqlite_account
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

LARGE = "x" * 40_000


class CountingEcho(EchoEngine):
    """Counts how often it is asked to count tokens; it does so when the gate is open."""

    def __init__(self) -> None:
        super().__init__(context_length=100_000)
        self.counted = 0
        self.counting = 0
        self.most_counting = 0
        self.two_are_counting = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def count_tokens(self, prompt: Prompt) -> int:
        self.counted += 1
        self.counting += 1
        self.most_counting = max(self.most_counting, self.counting)
        if self.counting == 2:
            self.two_are_counting.set()
        try:
            await self.gate.wait()
            return await super().count_tokens(prompt)
        finally:
            self.counting -= 1


async def ask(client: httpx.AsyncClient, dialect: DialectClient, key: str, text: str = "Hi") -> int:
    """Return the status of a chat of one message."""
    body = dialect.body("echo", text, max_tokens=1)
    headers = {"authorization": f"Bearer {key}"}
    return (await client.post(dialect.path("echo"), json=body, headers=headers)).status_code


async def test_a_refused_key_gets_no_more_work_until_it_may_send_again(dialect: DialectClient, tmp_path: Path) -> None:
    engine = CountingEcho()
    with sqlite_account(tmp_path, balance=0) as account:
        key = account.new_key()
        async with metered_app(account, tmp_path / "journals", engine=engine) as app, client_of(app) as client:
            assert await ask(client, dialect, key, LARGE) == dialect.out_of_balance_status
            assert engine.counted == 0, "a large request is checked first"
            for _ in range(3):
                assert await ask(client, dialect, key) == dialect.out_of_balance_status
            assert engine.counted == 0
            deposit(account.database, account.account_id, 10**12)
            for text in (LARGE, "Hi"):
                assert await ask(client, dialect, key, text) == 200
        account.assert_settled()


async def test_the_rate_is_checked_before_the_work(dialect: DialectClient, tmp_path: Path) -> None:
    engine = CountingEcho()
    with sqlite_account(tmp_path) as account:
        key = account.new_key(KeyRules(requests_per_minute=1))
        async with metered_app(account, tmp_path / "journals", engine=engine) as app, client_of(app) as client:
            assert await ask(client, dialect, key) == 200
            counted = engine.counted
            assert await ask(client, dialect, key, LARGE) == 429
            assert engine.counted == counted
            for _ in range(3):
                assert await ask(client, dialect, key) == 429
            assert engine.counted == counted
        account.assert_settled()


async def test_an_accounts_large_requests_wait_for_each_other_and_others_do_not_wait_for_them(
    dialect: DialectClient, tmp_path: Path
) -> None:
    engine = CountingEcho()
    with sqlite_account(tmp_path) as account:
        other = create_account(account.database, "other")
        deposit(account.database, other.id, 10**12)
        keys = [account.new_key(), create_key(account.database, other.id).secret]
        async with metered_app(account, tmp_path / "journals", engine=engine) as app, client_of(app) as client:
            for key in keys:
                assert await ask(client, dialect, key) == 200
            counted, engine.most_counting = engine.counted, 0
            engine.gate.clear()
            requests = [asyncio.create_task(ask(client, dialect, key, LARGE)) for key in (keys[0],) * 3 + (keys[1],)]
            await asyncio.wait_for(engine.two_are_counting.wait(), TEST_TIMEOUT_SECONDS)
            assert engine.counted - counted == 2, "one of each account"
            engine.gate.set()
            assert await asyncio.gather(*requests) == [200] * 4
            assert engine.most_counting == 2
        account.assert_settled()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/utils/token_counter", {"model": "echo", "prompt": "Hi"}),
        ("/tokenize", {"model": "echo", "prompt": "Hi"}),
        ("/detokenize", {"model": "echo", "tokens": [72]}),
    ],
)
async def test_requests_that_count_tokens_count_towards_the_rate(
    path: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    with sqlite_account(tmp_path) as account:
        key = account.new_key(KeyRules(requests_per_minute=2))
        async with metered_app(account, tmp_path / "journals") as app, client_of(app, key=key) as client:
            statuses = [(await client.post(path, json=fields)).status_code for _ in range(4)]
            assert statuses == [200, 200, 429, 429]
            chat = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}
            assert (await client.post("/v1/chat/completions", json=chat)).status_code == 429
        account.assert_settled()
