"""Usage as a table and as CSV."""

import asyncio
import csv
import io
import re

from dragoman.core.money import format_amount, parse_amount
from dragoman.server.app import App
from tests.support.accounting import ADMIN_KEY
from tests.support.console import CHAT, ask, console_client
from tests.support.metered import AccountFixture
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


async def test_the_usage_page_and_its_csv_are_the_ledgers_sums(account: AccountFixture, app: App) -> None:
    async with console_client(app, key=account.new_key()) as client:
        for _ in range(3):
            await ask(client)
        for period in ("24h", "30d"):
            page = (await client.get("/usage", period=period)).text
            total = re.search(r'id="total-charge">([\d.]+)<', page)
            assert total is not None
            assert total[1] == format_amount(account.account.charges)
            rows = list(csv.DictReader(io.StringIO((await client.get("/usage.csv", period=period)).text)))
            assert [(row["model"], row["requests"], row["charge"]) for row in rows] == [("echo", "3", total[1])]
        assert (await client.get("/usage", period="1y")).status_code == 400


async def test_usage_by_many_keys_is_a_table_of_a_hundred_whose_sums_are_the_ledgers(
    account: AccountFixture, app: App
) -> None:
    async with console_client(app, key=ADMIN_KEY) as client:
        for number in range(105):
            headers = {"authorization": f"Bearer {account.new_key()}"}
            body = {**CHAT, "max_tokens": 1 + number % 3}
            assert (await client.http.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while account.account.holds:
                await client.get("/login")  # They are settled a moment after their ends.
        for period in ("24h", "7d", "30d"):
            page = (await client.get("/usage", period=period, group="key_id")).text
            table = page.partition('id="usage-table"')[2]
            assert table.count('<th scope="row"') == 102, "a hundred keys, the others, and all"
            total = re.search(r'id="total-charge">([\d.]+)<', table)
            assert total is not None
            assert parse_amount(total[1]) == account.account.charges
            rows = list(
                csv.DictReader(io.StringIO((await client.get("/usage.csv", period=period, group="key_id")).text))
            )
            assert [row["requests"] for row in rows if row["key_id"] == "others"] == ["5"]
            assert sum(int(row["requests"]) for row in rows) == 105
