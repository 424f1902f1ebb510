"""Several processes on one database count as one."""

import multiprocessing
from collections import Counter

from dragoman.accounts.database import Database
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.keys import KeyRules, disable_key
from dragoman.accounts.ledger import Ledger
from dragoman.accounts.refusals import KeyDisabled
from tests.support.accounts import PROMPT_PRICE, Till
from tests.support.ledger_processes import PROMPT_TOKENS, Rush, rush
from tests.support.patience import PATIENCE_SECONDS

PROCESSES = 4


def _rush(url: str, key_digest: str, requests: int) -> Counter[str]:
    """How often each outcome came when so many requests were made by all processes together."""
    spawn = multiprocessing.get_context("forkserver")
    spawn.set_forkserver_preload(["tests.support.ledger_processes"])
    together = spawn.Barrier(PROCESSES)
    pipes = [spawn.Pipe() for _ in range(PROCESSES)]
    order = Rush(url, key_digest, requests // PROCESSES)
    processes = [spawn.Process(target=rush, args=(order, together, there)) for _, there in pipes]
    for process in processes:
        process.start()
    outcomes: Counter[str] = Counter()
    for here, _ in pipes:
        assert here.poll(PATIENCE_SECONDS)
        outcomes.update(here.recv())
    for process in processes:
        process.join(timeout=PATIENCE_SECONDS)
    return outcomes


def test_500_first_requests_at_once_spend_a_balance_for_10_exactly(database_url: str) -> None:
    database = Database(database_url)
    with Till(database, balance=10 * PROMPT_TOKENS * PROMPT_PRICE) as till:
        assert _rush(database_url, till.digest, 500) == {"Admitted": 10, "BalanceTooLow": 490}
        assert (till.account.balance, till.key.running) == (0, 10)
        till.assert_balanced()
    database.close()


def test_exactly_100_of_240_requests_a_minute_come_in(database_url: str) -> None:
    database = Database(database_url)
    with Till(database, rules=KeyRules(requests_per_minute=100)) as till:
        assert _rush(database_url, till.digest, 240) == {"Admitted": 100, "RequestRateLimited": 140}
        till.assert_balanced()
    database.close()


def test_a_key_that_is_disabled_is_refused_by_every_process_at_once(till: Till) -> None:
    elsewhere = Ledger(till.database, new_process_id())
    till.admit()
    disable_key(till.database, till.key_id)
    (outcome,) = elsewhere.commit([till.admission()])
    assert isinstance(outcome, KeyDisabled)
    elsewhere.close()
