import pytest

from dragoman.accounts.administration.prices import get_price, list_prices, set_price
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.core.money import InvalidAmount
from tests.support.ledger_harness import MODEL, LedgerHarness, ManualClock


def test_prices_are_never_changed_or_deleted(harness: LedgerHarness) -> None:
    first = harness.admit(10, 10)
    (old,) = list_prices(harness.database, MODEL)
    new = set_price(harness.database, MODEL, 1000, 3000)
    assert list_prices(harness.database) == [old, new]
    assert get_price(harness.database, old.id) == old
    with pytest.raises(LookupError, match="99"):
        get_price(harness.database, 99)
    # Running requests pay the prices of their admission.
    assert harness.settle(first.request_id, 10, 0, 10).charge == 10 * old.prompt + 10 * old.completion
    assert harness.admit(10, 10).hold == 10 * 1000 + 10 * 3000


def test_a_price_is_valid_from_its_date(tmp_path_factory: pytest.TempPathFactory) -> None:
    clock = ManualClock()
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('prices')}/accounts.db", clock)
    upgrade(database)
    with LedgerHarness(database) as harness:
        set_price(database, MODEL, 20, 20, valid_from=clock.wall + 10_000)
        before = harness.admit(1, 0).hold
        clock.advance(10)
        assert (before, harness.admit(1, 0).hold) == (10, 20)
    database.close()


def test_a_model_without_a_price_is_free(harness: LedgerHarness) -> None:
    admitted = harness.admit(10, 10, model="gift")
    assert admitted.hold == 0
    assert harness.settle(admitted.request_id).charge == 0
    harness.assert_consistent()


@pytest.mark.parametrize(("prompt", "cached", "completion"), [(-1, None, 1), (1, -1, 1), (1, 2, 1), (1, 1, -1)])
def test_impossible_prices_are_refused(database: Database, prompt: int, cached: int | None, completion: int) -> None:
    with pytest.raises(InvalidAmount, match="negative"):
        set_price(database, MODEL, prompt, completion, cached=cached)
