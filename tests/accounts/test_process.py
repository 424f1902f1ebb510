import asyncio
import os
import signal

from dragoman.accounts.child import LedgerProcess
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.messages import Committed, Opening, Synced
from dragoman.accounts.operations import Settlement
from dragoman.accounts.transport import LedgerTransport
from tests.support.accounts import Till
from tests.support.patience import PATIENCE_SECONDS
from tests.support.server import LEDGER_PROCESS, arguments_of, children_of

UNKNOWN = Settlement("unknown", 1, 0, 1, "finished")


async def _started(till: Till, transport: type[LedgerTransport] = LedgerProcess) -> LedgerTransport:
    return await transport.start(Opening(till.database.url, till.database.busy_seconds, new_process_id()))


async def test_it_answers_everything_before_it_ends(till: Till, transport: type[LedgerTransport]) -> None:
    process = await _started(till, transport)
    process.commit([till.admission(), till.admission(), UNKNOWN], again=False)
    process.finish()
    async with asyncio.timeout(PATIENCE_SECONDS):
        committed, *synced = [reply async for reply in process.replies()]
        assert await process.end() == 0
    assert isinstance(committed, Committed)
    assert len(committed.outcomes) == 3
    # PostgreSQL's commits wait for the disk themselves.
    assert (committed.synced, synced) == ((False, [Synced(1, None)]) if till.database.is_sqlite else (True, []))
    assert till.key.running == 2


async def test_it_ends_with_whoever_started_it(till: Till, transport: type[LedgerTransport]) -> None:
    process = await _started(till, transport)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await process.end() == 0


async def test_it_does_not_end_when_it_is_told_to_before_its_server(till: Till) -> None:
    process = await _started(till)
    process.commit([UNKNOWN], again=False)
    replies = process.replies()
    await anext(replies)  # It is there.
    (child,) = children_of(os.getpid(), LEDGER_PROCESS)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(child, number)
    process.commit([till.admission()], again=False)
    process.finish()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert [type(reply) async for reply in replies].count(Committed) == 1
        assert await process.end() == 0


async def test_its_arguments_tell_nobody_where_the_database_is(till: Till) -> None:
    process = await _started(till)
    (child,) = children_of(os.getpid(), LEDGER_PROCESS)
    assert till.database.url not in arguments_of(child)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await process.end()
