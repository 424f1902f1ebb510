"""Balances and limits hold across several processes on one database."""

import multiprocessing
from collections import Counter

from dragoman.accounts.administration.keys import KeyRules, disable_key
from dragoman.accounts.database.connections import Database
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.core.errors import KeyDisabled
from tests.support.ledger_harness import PROMPT_PRICE, LedgerHarness
from tests.support.ledger_processes import PROMPT_TOKENS, AdmissionLoad, run_admissions
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

PROCESSES = 4


def _run_admissions(url: str, key_digest: str, requests: int) -> Counter[str]:
    """Divide the requests among all processes, run them at the same time, and count each outcome."""
    spawn = multiprocessing.get_context("forkserver")
    spawn.set_forkserver_preload(["tests.support.ledger_processes"])
    barrier = spawn.Barrier(PROCESSES)
    pipes = [spawn.Pipe() for _ in range(PROCESSES)]
    load = AdmissionLoad(url, key_digest, requests // PROCESSES)
    processes = [spawn.Process(target=run_admissions, args=(load, barrier, there)) for _, there in pipes]
    for process in processes:
        process.start()
    outcomes: Counter[str] = Counter()
    for here, _ in pipes:
        assert here.poll(TEST_TIMEOUT_SECONDS)
        outcomes.update(here.recv())
    for process in processes:
        process.join(timeout=TEST_TIMEOUT_SECONDS)
    return outcomes


def test_500_concurrent_first_requests_spend_a_balance_for_10_exactly(database_url: str) -> None:
    database = Database(database_url)
    with LedgerHarness(database, balance=10 * PROMPT_TOKENS * PROMPT_PRICE) as harness:
        assert _run_admissions(database_url, harness.digest, 500) == {"Admitted": 10, "BalanceTooLow": 490}
        assert (harness.account.balance, harness.key.running) == (0, 10)
        harness.assert_consistent()
    database.close()


def test_exactly_100_of_240_requests_a_minute_are_admitted(database_url: str) -> None:
    database = Database(database_url)
    with LedgerHarness(database, rules=KeyRules(requests_per_minute=100)) as harness:
        assert _run_admissions(database_url, harness.digest, 240) == {"Admitted": 100, "RequestRateLimited": 140}
        harness.assert_consistent()
    database.close()


def test_a_disabled_key_is_refused_by_every_process_immediately(harness: LedgerHarness) -> None:
    elsewhere = Ledger(harness.database, new_process_id())
    harness.admit()
    disable_key(harness.database, harness.key_id)
    (outcome,) = elsewhere.commit([harness.admission()])
    assert isinstance(outcome, KeyDisabled)
    elsewhere.close()
