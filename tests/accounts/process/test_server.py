import asyncio
import os
import signal

from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.process.handle import LedgerProcessHandle
from dragoman.accounts.process.messages import Committed, LedgerConfig, LedgerReply, Synced
from dragoman.accounts.process.transport import LedgerTransport
from tests.support.ledger_harness import LedgerHarness, settlement
from tests.support.server import LEDGER_PROCESS, arguments_of, children_of
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

UNKNOWN = settlement("unknown")


async def _started(harness: LedgerHarness, transport: type[LedgerTransport] = LedgerProcessHandle) -> LedgerTransport:
    return await transport.start(LedgerConfig(harness.database.url, harness.database.busy_seconds, new_process_id()))


async def test_it_answers_everything_before_it_ends(harness: LedgerHarness, transport: type[LedgerTransport]) -> None:
    process = await _started(harness, transport)
    process.commit([harness.admission(), harness.admission(), UNKNOWN], is_retry=False)
    process.finish()
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        replies: list[LedgerReply] = []
        await process.run(replies.append)
        assert await process.wait() == 0
    committed, *synced = replies
    assert isinstance(committed, Committed)
    assert len(committed.outcomes) == 3
    # PostgreSQL's commits wait for the disk themselves.
    assert (committed.synced, synced) == ((False, [Synced(1, None)]) if harness.database.is_sqlite else (True, []))
    assert harness.key.running == 2


async def test_it_ends_when_its_connection_is_closed(harness: LedgerHarness, transport: type[LedgerTransport]) -> None:
    process = await _started(harness, transport)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        assert await process.wait() == 0


async def test_it_ignores_signals_until_its_server_ends(harness: LedgerHarness) -> None:
    process = await _started(harness)
    replies: list[LedgerReply] = []
    has_started = asyncio.Event()

    def handle(reply: LedgerReply) -> None:
        replies.append(reply)
        has_started.set()

    process.commit([UNKNOWN], is_retry=False)
    running = asyncio.create_task(process.run(handle))
    await has_started.wait()
    (child,) = children_of(os.getpid(), LEDGER_PROCESS)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(child, number)
    process.commit([harness.admission()], is_retry=False)
    process.finish()
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await running
        assert await process.wait() == 0
    assert [type(reply) for reply in replies].count(Committed) == 2


async def test_its_arguments_do_not_contain_the_database_url(harness: LedgerHarness) -> None:
    process = await _started(harness)
    (child,) = children_of(os.getpid(), LEDGER_PROCESS)
    assert harness.database.url not in arguments_of(child)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await process.wait()
