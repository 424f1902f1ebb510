"""kill -9 at any moment: the next worker settles the dead one's requests from its journal."""

import asyncio
import random
from pathlib import Path

from dragoman.accounts.database.connections import Database
from tests.support.dialects.streaming_clients import StreamingClients, assert_all_tokens_charged
from tests.support.metered import AccountFixture
from tests.support.processes.killable_worker import killable_worker

KILLS = {"sqlite": 5, "postgresql": 3}
"""benchmarks/kills.py makes 200, which takes some minutes."""


async def test_a_worker_killed_at_any_moment_leaves_no_hold_and_no_unpaid_token(
    database: Database, database_url: str, kind: str, tmp_path: Path
) -> None:
    account_fixture = AccountFixture(database)
    rng = random.Random(1)
    with killable_worker(database_url, tmp_path / "journals", tokens_per_second=300) as worker:
        async with StreamingClients(worker.url, account_fixture.new_key(), clients=8, seed=1) as clients:
            for _ in range(KILLS[kind]):
                await clients.wait_for_tokens(rng.randint(1, 300))
                await asyncio.to_thread(worker.kill)
            await clients.wait_for_tokens(1)
    assert_all_tokens_charged(account_fixture, clients)
    assert {used.result for used in account_fixture.usage} >= {"finished", "crashed"}
