"""Two machines on one PostgreSQL, one of which is cut off and then loses power; benchmarks.hosts does more of it.

Machines are network namespaces with processes of their own: within one process nothing can be cut off or lose power.
"""

import asyncio
import time

import pytest

from tests.support.hosts.chats import ChatClients
from tests.support.hosts.cluster import HERE, REQUESTS_PER_MINUTE, Cluster, running_cluster
from tests.support.hosts.network import DATA, missing
from tests.support.hosts.queued import QueuedRequests
from tests.support.hosts.servers import EDGE_URL
from tests.support.jobs.queue_harness import wait_until

TEXT = "It is read on one machine, goes on at the other, and is the same byte for byte in the end."

LACKING = missing("nginx")

pytestmark = pytest.mark.skipif(LACKING is not None, reason=f"no network of machines can be made here: {LACKING}")


def test_machines_on_one_database_keep_limits_jobs_and_books_whatever_happens_to_one_of_them() -> None:
    with running_cluster(2) as cluster:
        answered = asyncio.run(_ask(cluster))
        assert answered
        deadline = time.monotonic() + 30
        while (wrong := cluster.books(answered)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert wrong == []


async def _ask(cluster: Cluster) -> dict[str, int]:
    first, second = cluster.hosts
    key, certificate = cluster.new_key(), cluster.certificate
    async with (
        ChatClients(first.url, key, seed=1) as at_first,
        ChatClients(EDGE_URL, key, seed=2, certificate=certificate) as chats,
        QueuedRequests(first.url, [second.url], key, seed=3, certificate=certificate) as queued,
    ):
        await cluster.wait_until_ready()
        burst = await cluster.burst(REQUESTS_PER_MINUTE * 6 // 5)
        assert burst == {"answered": REQUESTS_PER_MINUTE, "error": REQUESTS_PER_MINUTE // 5}, "over both machines"

        cluster.network.disconnect(first.machine, DATA)
        refused = await at_first.ask(HERE)
        assert refused.outcome == "error", "the dialect's, while the machine has no database"
        cluster.network.connect(first.machine, DATA)
        await cluster.wait_until_ready()

        body = {"model": HERE, "messages": [{"role": "user", "content": TEXT}]}
        job = await queued.submit(body, 1)
        await wait_until(lambda: len(job.frames) > 5)
        first.lose()
        whole = [await chats.ask(HERE, stream=stream) for stream in (True, False)]
        assert [answer.outcome for answer in whole] == ["answered"] * 2, "by the other machine"
        await queued.finish()
        assert len(job.machines) > 1
        assert await queued.differences(second.url) == []
        assert [text for _, text in await queued.texts(second.url)] == [TEXT]
        return chats.answered | at_first.answered
