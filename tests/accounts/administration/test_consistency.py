from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.database.connections import Database
from tests.support.ledger_harness import LedgerHarness


def test_discrepancies_in_tables_changed_by_hand_are_found(harness: LedgerHarness, database: Database) -> None:
    harness.run_requests(2)
    assert find_discrepancies(database) == []
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE usage SET charge = charge + 1 WHERE id = 1")
        connection.exec_driver_sql("UPDATE keys SET running = 3")
    invariants = {discrepancy.invariant for discrepancy in find_discrepancies(database)}
    assert invariants == {"charges by usage", "key's spending", "key's running requests"}
