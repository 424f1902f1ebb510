"""Idempotency keys in the database: one runner at a time and one response, whichever process dies."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import delete, func, insert, select

from dragoman.accounts.administration.accounts import create_account
from dragoman.accounts.administration.keys import create_key
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.idempotency_keys import (
    RETENTION_MILLISECONDS,
    ROW_BYTES,
    IdempotencyKeyTable,
    IdempotencyRow,
    key_state,
    row_id,
)
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.database.tables import idempotent_requests, processes
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.core.context import key_digest
from dragoman.core.idempotency import (
    Acquired,
    IdempotencyState,
    IdempotentRequest,
    InProgress,
    NotStored,
    RequestMismatch,
    StoredResponse,
)
from tests.support.ledger_harness import ManualClock
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

REQUEST = IdempotentRequest("caller", "key", "fingerprint")
RESPONSE = StoredResponse(
    200, (("content-type", "text/event-stream"), ("x-request-id", "1")), b"data: \xf0\x9f\xa6\x9c\n\n"
)


def register(database: Database, process_id: int) -> IdempotencyKeyTable:
    with database.write() as connection:
        connection.execute(insert(processes).values(id=process_id, machine="here", beat_at=0))
    return IdempotencyKeyTable(database, process_id)


def unregister(database: Database, process_id: int) -> None:
    """Remove a process, as recovery does after its death."""
    with database.write() as connection:
        connection.execute(delete(processes).where(processes.c.id == process_id))


def count(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(idempotent_requests)).scalar_one()


@pytest.fixture
def first(database: Database) -> IdempotencyKeyTable:
    return register(database, 1)


@pytest.fixture
def second(database: Database) -> IdempotencyKeyTable:
    return register(database, 2)


def test_the_first_request_runs_and_the_others_wait_for_its_response(
    first: IdempotencyKeyTable, second: IdempotencyKeyTable
) -> None:
    assert first.claim(REQUEST, 11) == Acquired(11)
    assert [table.claim(REQUEST, 12) for table in (first, second)] == [InProgress(), InProgress()]
    assert first.store(REQUEST, 11, RESPONSE)
    assert [table.claim(REQUEST, 13) for table in (first, second)] == [RESPONSE, RESPONSE]


def test_a_key_belongs_to_one_request_of_one_caller(first: IdempotencyKeyTable, second: IdempotencyKeyTable) -> None:
    other = IdempotentRequest("caller", "key", "another")
    first.claim(REQUEST, 11)
    assert second.claim(other, 12) == RequestMismatch()
    assert second.claim(IdempotentRequest("another caller", "key", "another"), 13) == Acquired(13)
    first.store(REQUEST, 11, RESPONSE)
    assert second.claim(other, 14) == RequestMismatch()


def test_a_response_that_is_too_large_is_recorded_without_its_body(first: IdempotencyKeyTable) -> None:
    first.claim(REQUEST, 11)
    assert first.store(REQUEST, 11, None)
    assert first.claim(REQUEST, 12) == NotStored()


def test_a_released_request_is_run_by_the_next_claim(first: IdempotencyKeyTable, second: IdempotencyKeyTable) -> None:
    first.claim(REQUEST, 11)
    first.release(REQUEST, 11)
    assert second.claim(REQUEST, 12) == Acquired(12)
    second.store(REQUEST, 12, RESPONSE)
    second.release(REQUEST, 12)
    assert first.claim(REQUEST, 13) == RESPONSE


def test_the_claim_of_a_dead_process_is_taken_over_and_its_response_is_discarded(
    database: Database, first: IdempotencyKeyTable, second: IdempotencyKeyTable
) -> None:
    first.claim(REQUEST, 11)
    unregister(database, 1)
    assert second.claim(REQUEST, 12) == Acquired(12)
    assert not first.store(REQUEST, 11, RESPONSE)
    first.release(REQUEST, 11)
    assert second.claim(REQUEST, 13) == InProgress()
    assert second.store(REQUEST, 12, RESPONSE)


def test_of_many_concurrent_claims_one_succeeds(database: Database, first: IdempotencyKeyTable) -> None:
    barrier = Barrier(8)

    def claim(token: int) -> IdempotencyState:
        barrier.wait(TEST_TIMEOUT_SECONDS)
        return first.claim(REQUEST, token)

    for dead in (None, 2, 3, 4):
        if dead is not None:  # A dead process's claim is also taken over once.
            register(database, dead).claim(REQUEST, 99)
            unregister(database, dead)
        with ThreadPoolExecutor(8) as pool:
            states = list(pool.map(claim, range(8)))
        [winner] = [state for state in states if isinstance(state, Acquired)]
        assert states.count(InProgress()) == 7
        first.release(REQUEST, winner.token)


def test_the_sweep_deletes_abandoned_claims_only(
    database: Database, first: IdempotencyKeyTable, second: IdempotencyKeyTable
) -> None:
    third = register(database, 3)
    for number, table in enumerate((first, first, second, third)):
        assert table.claim(IdempotentRequest("caller", f"key {number}", ""), number) == Acquired(number)
    second.store(IdempotentRequest("caller", "key 2", ""), 2, RESPONSE)
    unregister(database, 3)
    assert first.sweep({0}) == 2, "the claim of the dead process, and the one of its own that was forgotten"
    assert first.claim(IdempotentRequest("caller", "key 0", ""), 20) == InProgress()
    assert first.claim(IdempotentRequest("caller", "key 2", ""), 22) == RESPONSE


def test_a_response_is_stored_for_a_day_by_the_databases_clock(tmp_path: Path) -> None:
    clock = ManualClock()
    database = Database(f"sqlite:///{tmp_path}/a.db", clock)
    upgrade(database)
    table = register(database, 1)
    table.claim(REQUEST, 11)
    clock.advance(RETENTION_MILLISECONDS // 1000)  # The run time does not count.
    table.store(REQUEST, 11, RESPONSE)
    clock.advance(RETENTION_MILLISECONDS // 1000 - 1)
    assert table.claim(REQUEST, 12) == RESPONSE
    assert table.sweep(()) == 0
    clock.advance(1)
    assert table.sweep(()) == 1
    assert table.claim(REQUEST, 13) == Acquired(13)
    database.close()


def test_the_key_of_a_queued_request_is_taken_while_its_job_exists(
    first: IdempotencyKeyTable, database: Database
) -> None:
    queued = insert(idempotent_requests).values(
        id=row_id(REQUEST),
        fingerprint=REQUEST.fingerprint,
        token=0,
        process_id=QUEUE_PROCESS_ID,
        claimed_at=0,
        job_id="job_1",
    )
    with database.write() as connection:
        connection.execute(queued)
    assert first.claim(REQUEST, 11) == RequestMismatch()
    assert first.sweep(()) == 0
    assert first.claim(REQUEST, 12) == RequestMismatch()


rows = st.builds(
    IdempotencyRow,
    id=st.just("id"),
    fingerprint=st.sampled_from("ab"),
    token=st.integers(0, 9),
    process_id=st.integers(0, 9),
    claimed_at=st.integers(0, 100),
    ended_at=st.none() | st.integers(0, 2 * RETENTION_MILLISECONDS),
    status=st.none() | st.just(200),
    headers=st.just("[]"),
    body=st.just(b"{}"),
    job_id=st.none(),
)


@given(st.none() | rows, st.sampled_from("ab"), st.integers(0, 3 * RETENTION_MILLISECONDS), st.booleans())
def test_every_row_has_exactly_one_state(row: IdempotencyRow | None, fingerprint: str, now: int, alive: bool) -> None:
    found = key_state(row, fingerprint, now, alive=alive)
    if row is None:
        assert found is None
        return
    running = row.ended_at is None and alive
    stored = row.ended_at is not None and now < row.ended_at + RETENTION_MILLISECONDS
    assert (found is None) == (not running and not stored)
    if found is not None:
        assert isinstance(found, RequestMismatch) == (fingerprint != row.fingerprint)
        assert isinstance(found, InProgress) <= running
        assert isinstance(found, StoredResponse | NotStored) <= stored


class IdempotencyMachine(RuleBasedStateMachine):
    """Processes that start, claim, respond, release and die, over the same two keys."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory()
        self._clock = ManualClock()
        self._database = Database(f"sqlite:///{self._folder.name}/a.db", self._clock)
        upgrade(self._database)
        self._last_id = 0
        self._tables: dict[int, IdempotencyKeyTable] = {}
        self._claims: dict[int, tuple[int, IdempotentRequest]] = {}
        """Process and request by token, including claims of dead processes, which may still act."""
        self._running: dict[str, int] = {}
        """The expected state of the database: the token of the valid claim of each key."""
        self._responses: dict[str, tuple[str, StoredResponse | None, int]] = {}
        """Fingerprint, response and time of each key with a response."""
        self.start()

    def teardown(self) -> None:
        self._database.close()
        self._folder.cleanup()

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    @rule()
    def start(self) -> None:
        if len(self._tables) < 3:
            process_id = self._next_id()
            self._tables[process_id] = register(self._database, process_id)

    @precondition(lambda self: len(self._tables) > 1)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        process_id = data.draw(st.sampled_from(sorted(self._tables)))
        unregister(self._database, process_id)
        del self._tables[process_id]
        dead = {token for token, (owner, _) in self._claims.items() if owner == process_id}
        self._running = {key: token for key, token in self._running.items() if token not in dead}

    @rule(data=st.data(), key=st.sampled_from("kl"), fingerprint=st.sampled_from("ab"))
    def claim(self, data: st.DataObject, key: str, fingerprint: str) -> None:
        process_id = data.draw(st.sampled_from(sorted(self._tables)))
        token, request = self._next_id(), IdempotentRequest("caller", key, fingerprint)
        expected = self._expected(request, token)
        assert self._tables[process_id].claim(request, token) == expected
        if expected == Acquired(token):
            self._claims[token] = (process_id, request)
            self._running[key] = token
            self._responses.pop(key, None)

    def _expected(self, request: IdempotentRequest, token: int) -> IdempotencyState:
        if (running := self._running.get(request.key)) is not None:
            return InProgress() if self._claims[running][1] == request else RequestMismatch()
        fingerprint, response, at = self._responses.get(request.key, ("", None, -RETENTION_MILLISECONDS))
        if at + RETENTION_MILLISECONDS <= self._clock.wall:
            return Acquired(token)
        if fingerprint != request.fingerprint:
            return RequestMismatch()
        return NotStored() if response is None else response

    @precondition(lambda self: self._claims)
    @rule(
        data=st.data(), response=st.none() | st.builds(StoredResponse, st.just(200), st.just(()), st.binary(max_size=4))
    )
    def store(self, data: st.DataObject, response: StoredResponse | None) -> None:
        token = data.draw(st.sampled_from(sorted(self._claims)))
        process_id, request = self._claims[token]
        table = self._tables.get(process_id) or IdempotencyKeyTable(self._database, process_id)
        is_valid = self._running.get(request.key) == token
        # A dead process may still store its response, unless its claim was taken over or swept.
        stored = table.store(request, token, response)
        assert stored or not is_valid
        if stored:
            self._running.pop(request.key, None)
            self._responses[request.key] = (request.fingerprint, response, self._clock.wall)

    @precondition(lambda self: self._claims)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(self._claims)))
        process_id, request = self._claims[token]
        (self._tables.get(process_id) or IdempotencyKeyTable(self._database, process_id)).release(request, token)
        if self._running.get(request.key) == token:
            del self._running[request.key]

    @rule(data=st.data())
    def sweep(self, data: st.DataObject) -> None:
        process_id = data.draw(st.sampled_from(sorted(self._tables)))
        held = {token for token, (owner, _) in self._claims.items() if owner == process_id}
        self._tables[process_id].sweep(held)

    @rule(hours=st.sampled_from([1, 23, 24]))
    def wait(self, hours: int) -> None:
        self._clock.advance(hours * 3600)

    @invariant()
    def a_key_has_one_row(self) -> None:
        assert count(self._database) <= 2


TestProcesses = IdempotencyMachine.TestCase
TestProcesses.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_above_the_limit_the_accounts_with_the_most_stored_lose_their_oldest_responses(database: Database) -> None:
    register(database, 1)
    greedy, modest = (create_account(database, name).id for name in ("greedy", "modest"))
    first_key, second_key = (key_digest(create_key(database, greedy).secret) for _ in range(2))
    other_key = key_digest(create_key(database, modest).secret)
    size = 10_000
    sent = [(owner, number) for number in range(4) for owner in (first_key, second_key)]
    sent[4:4] = [(other_key, 0), (other_key, 1)]
    table = IdempotencyKeyTable(database, 1, max_bytes=5 * size + len(sent) * 2 * ROW_BYTES)
    requests = [IdempotentRequest(owner, f"{number}", "fingerprint") for owner, number in sent]
    for moment, request in enumerate(requests):
        assert table.claim(request, moment) == Acquired(moment)
        assert table.store(request, moment, StoredResponse(200, (), bytes(size)))
        with database.write() as connection:
            row = idempotent_requests.update().where(idempotent_requests.c.id == row_id(request))
            connection.execute(row.values(ended_at=idempotent_requests.c.ended_at - 1000 + moment))
    assert table.sweep(()) == 5
    with database.read() as connection:
        stored = set(connection.execute(select(idempotent_requests.c.id)).scalars())
    kept = [(other_key, 0), (other_key, 1), *sent[-3:]]
    assert stored == {row_id(request) for request, owner in zip(requests, sent, strict=True) if owner in kept}
    assert table.sweep(()) == 0
