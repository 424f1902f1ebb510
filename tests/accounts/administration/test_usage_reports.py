"""Pages of requests, and sums of usage over time."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.administration.usage_rebuild import rebuild_usage_sums
from dragoman.accounts.administration.usage_reports import (
    Grouping,
    RequestFilter,
    UnitHours,
    UsageSpan,
    add_classes,
    find_request,
    largest_groups,
    list_requests,
    percentile_ms,
    usage_over_time,
)
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import MIGRATIONS, upgrade
from dragoman.accounts.database.tables import FIRST_TOKEN_BOUNDS_MS, daily_usage, hourly_usage, six_hourly_usage, usage
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import Settlement, SettlementResult
from tests.support.ledger_harness import LedgerHarness, ManualClock, clear_tables
from tests.support.sqlite_files import create_sqlite_database

EVERYTHING = RequestFilter()
UNITS: tuple[UnitHours, ...] = (1, 6, 24)


def forever(hours: UnitHours) -> UsageSpan:
    return UsageSpan(hours, 0, 2**40)


def request(harness: LedgerHarness, ledger: Ledger | None = None, **fields: Any) -> str:
    """Run one request. `fields` are those of its settlement, or `model`, `dialect` or `key_digest`."""
    of_admission = {name: fields.pop(name) for name in ("model", "dialect", "key_digest") if name in fields}
    admission = harness.admission(prompt=1000, max_completion=1000, **of_admission)
    defaults = {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1, "result": "finished"}
    settlement = Settlement(request_id=admission.request_id, **{**defaults, **fields})
    (ledger or harness.ledger).commit([admission])
    (ledger or harness.ledger).commit([settlement])
    return admission.request_id


def stored_sums(database: Database) -> list[list[Any]]:
    """Return all rows of the tables of sums, in order."""
    with database.read() as connection:
        tables = (hourly_usage, daily_usage, six_hourly_usage)
        return [[tuple(row) for row in connection.execute(select(each).order_by(*each.primary_key))] for each in tables]


def test_pages_continue_after_their_last_row_whatever_is_settled_meanwhile(harness: LedgerHarness) -> None:
    ids = [request(harness) for _ in range(12)]
    first = list_requests(harness.database, EVERYTHING, limit=5)
    request(harness)
    second = list_requests(harness.database, EVERYTHING, before=first.next, limit=5)
    third = list_requests(harness.database, EVERYTHING, before=second.next, limit=5)
    shown = [row.request_id for page in (first, second, third) for row in page.rows]
    assert (shown, third.next) == (ids[::-1], None)


def test_requests_are_filtered_by_everything_that_a_page_offers(harness: LedgerHarness) -> None:
    plain, owl = request(harness), request(harness, model="owl")
    failed, arcee = request(harness, result="failed"), request(harness, dialect="scale")
    foreign = request(harness, key_digest=None)

    def found(**conditions: Any) -> set[str]:
        return {row.request_id for row in list_requests(harness.database, RequestFilter(**conditions)).rows}

    assert found() == {plain, owl, failed, arcee, foreign}
    assert found(account_id=harness.account_id) == found(key_id=harness.key_id) == {plain, owl, failed, arcee}
    assert (found(model="owl"), found(errors=True), found(dialect="scale")) == ({owl}, {failed}, {arcee})
    assert (found(model="owl", errors=True), found(min_seconds=3600)) == (set(), set())
    assert found(min_seconds=0, account_id=harness.account_id, model="owl") == {owl}


def test_a_page_of_rare_requests_searches_a_bounded_number_of_rows(harness: LedgerHarness) -> None:
    rare = request(harness, model="owl")
    for _ in range(6):
        request(harness)
    first = list_requests(harness.database, RequestFilter(model="owl"), scanned_rows=4)
    assert first.rows == []
    second = list_requests(harness.database, RequestFilter(model="owl"), before=first.next, scanned_rows=4)
    assert ([row.request_id for row in second.rows], second.next) == ([rare], None)


def test_a_request_is_found_by_its_id_in_its_own_account_only(harness: LedgerHarness) -> None:
    request_id = request(harness, first_token_ms=42)
    found = find_request(harness.database, request_id, harness.account_id)
    assert found is not None
    assert found.first_token_ms == 42
    assert find_request(harness.database, request_id, harness.account_id + 1) is None
    assert find_request(harness.database, "a\0b") is None


def test_sums_are_grouped_by_everything_that_a_page_offers(harness: LedgerHarness) -> None:
    request(harness)
    request(harness, model="owl", result="crashed")

    def sums(hours: UnitHours, shown: RequestFilter, group: Grouping | None = None) -> dict[Any, tuple[int, int]]:
        points = usage_over_time(harness.database, forever(hours), shown, group)
        return {point.group: (point.requests, point.errors) for point in points}

    for hours in UNITS:
        assert sums(hours, EVERYTHING) == {None: (2, 1)}
        assert sums(hours, EVERYTHING, "model") == {"owl": (1, 1), "parrot": (1, 0)}
        assert sums(hours, EVERYTHING, "key_id") == {harness.key_id: (2, 1)}
        assert sums(hours, RequestFilter(model="owl")) == {None: (1, 1)}
        assert sums(hours, RequestFilter(account_id=harness.account_id + 1)) == {}
    for hours in UNITS[:2]:
        assert sums(hours, EVERYTHING, "dialect") == {"arcee": (2, 1)}
    with pytest.raises(ValueError, match="ask for hours"):
        sums(24, EVERYTHING, "dialect")


def test_the_largest_groups_are_found_and_summed_alone(harness: LedgerHarness) -> None:
    for tokens, model in enumerate(("owl", "crow", "wren"), start=1):
        for _ in range(2):
            request(harness, model=model, completion_tokens=tokens)
    for hours in UNITS:
        span = forever(hours)
        largest = largest_groups(harness.database, span, EVERYTHING, group="model", most=2)
        assert largest == ["wren", "crow"]
        own = RequestFilter(account_id=harness.account_id, model="owl")
        assert largest_groups(harness.database, span, own, group="model", most=2) == ["owl"]
        points = usage_over_time(harness.database, forever(hours), EVERYTHING, "model", only=largest)
        assert {point.group: point.completion_tokens for point in points} == {"wren": 6, "crow": 4}


def test_six_hours_are_summed_once_they_have_ended_an_hour_ago(clocked: tuple[Database, ManualClock]) -> None:
    database, clock = clocked
    clear_tables(database)
    hour = 3600

    def summed() -> list[int]:
        with database.read() as connection:
            return list(connection.execute(select(six_hourly_usage.c.requests)).scalars())

    with LedgerHarness(database) as harness:
        clock.advance(6 * hour - clock.wall // 1000 % (6 * hour))
        for _ in range(3):
            request(harness)
            clock.advance(2 * hour)
        request(harness)
        assert summed() == []
        clock.advance(hour)
        request(harness)
        assert summed() == [3]
        points = usage_over_time(database, forever(6), EVERYTHING)
        assert [point.requests for point in points] == [3, 2]
        assert points == [
            *usage_over_time(database, UsageSpan(6, 0, points[0].at // (6 * 3_600_000)), EVERYTHING),
            *usage_over_time(database, UsageSpan(6, points[1].at // (6 * 3_600_000), 2**40), EVERYTHING),
        ]


def test_a_settlement_sums_a_week_at_most(clocked: tuple[Database, ManualClock]) -> None:
    database, clock = clocked
    clear_tables(database)
    with LedgerHarness(database) as harness:
        for _ in range(30):
            request(harness)
            clock.advance(6 * 3600)
        with database.write() as connection:
            connection.execute(delete(six_hourly_usage))
        for stored in (28, 30):
            another = Ledger(database, harness.process_id)
            another.commit([harness.admission()])
            another.close()
            assert len(stored_sums(database)[2]) == stored
            assert sum(point.requests for point in usage_over_time(database, forever(6), EVERYTHING)) == 30
    assert find_discrepancies(database) == []


def test_a_failure_in_the_transaction_changes_no_sum(harness: LedgerHarness) -> None:
    request(harness)
    before = stored_sums(harness.database)
    admission = harness.admission()
    harness.ledger.commit([admission])
    huge = Settlement(
        request_id=admission.request_id, prompt_tokens=10, cached_tokens=0, completion_tokens=2**53, result="finished"
    )
    (outcome,) = harness.ledger.commit([huge])
    assert isinstance(outcome, ValueError)
    assert stored_sums(harness.database) == before


def test_rebuilt_sums_are_those_that_the_settlements_wrote(harness: LedgerHarness) -> None:
    for number, result in enumerate(("finished", "failed", "crashed", "disconnected")):
        request(harness, result=result, prompt_tokens=number, first_token_ms=number * 100 or None)
    request(harness, key_digest=None, first_token_ms=10**6)
    written = stored_sums(harness.database)
    with harness.database.write() as connection:
        connection.execute(delete(hourly_usage))
        connection.execute(daily_usage.update().values(requests=0, errors=7))
    assert rebuild_usage_sums(harness.database) == len(written[0])
    assert stored_sums(harness.database) == written


def test_an_upgrade_sums_what_was_settled_before(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    upgrade(database, MIGRATIONS[:7])
    with database.write() as connection:
        for number, result in enumerate(("finished", "failed")):
            connection.exec_driver_sql(
                "INSERT INTO usage (request_id, account_id, key_id, model, dialect, admitted_at, settled_at, result, "
                "prompt_tokens, cached_tokens, completion_tokens, charge) "
                f"VALUES ('{number}', 1, 2, 'parrot', 'arcee', 0, {25 * 3_600_000 + number}, '{result}', 3, 1, 2, 7)"
            )
        connection.exec_driver_sql("INSERT INTO daily_usage VALUES (1, 2, 'parrot', 1, 2, 6, 2, 4, 14)")
    upgrade(database)
    written = stored_sums(database)
    rebuild_usage_sums(database)
    assert stored_sums(database) == written
    assert written[0][0][:11] == (25, 1, 2, "parrot", "arcee", 2, 6, 2, 4, 14, 1)
    database.close()


RESULTS: tuple[SettlementResult, ...] = ("finished", "failed", "crashed", "disconnected")
SETTLED = st.tuples(
    st.sampled_from(RESULTS),
    st.sampled_from(["parrot", "owl"]),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.one_of(st.none(), st.integers(0, 60_000)),
    st.integers(0, 40 * 3600),
)


@pytest.fixture(scope="module")
def clocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, ManualClock]]:
    clock = ManualClock()
    url = create_sqlite_database(Path(tmp_path_factory.mktemp("sums")) / "sums.db")
    with contextlib.closing(Database(url, clock)) as database:
        yield database, clock


@settings(max_examples=25)
@given(rows=st.lists(SETTLED, max_size=8))
def test_the_sums_of_any_requests_are_those_of_the_ledger(
    clocked: tuple[Database, ManualClock], rows: list[tuple[SettlementResult, str, int, int, int | None, int]]
) -> None:
    database, clock = clocked
    clear_tables(database)
    with LedgerHarness(database) as harness:
        for result, model, prompt, completion, first_token_ms, seconds in rows:
            clock.advance(seconds)
            fields: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
            request(harness, result=result, model=model, first_token_ms=first_token_ms, **fields)
        with database.read() as connection:
            settled = connection.execute(select(usage)).all()
        for hours in UNITS:
            points = usage_over_time(database, forever(hours), EVERYTHING)
            for name in ("prompt_tokens", "completion_tokens", "charge"):
                assert sum(getattr(point, name) for point in points) == sum(getattr(row, name) for row in settled)
            assert sum(point.requests for point in points) == len(rows)
            assert sum(point.errors for point in points) == sum(row[0] in ("failed", "crashed") for row in rows)
        measured = Counter(row[4] is not None for row in rows)[True]
        for hours in UNITS[:2]:
            assert sum(add_classes(usage_over_time(database, forever(hours), EVERYTHING))) == measured
        assert find_discrepancies(database) == []
        written = stored_sums(database)
        rebuild_usage_sums(database)
        assert stored_sums(database) == written


def test_percentiles_are_interpolated_in_their_class() -> None:
    classes = [0] * (len(FIRST_TOKEN_BOUNDS_MS) + 1)
    assert percentile_ms(classes, 0.5) is None
    classes[2] = 4  # 50 to 100 ms
    assert percentile_ms(classes, 0.5) == 75
    assert percentile_ms(classes, 1.0) == 100
    classes[-1] = 100
    assert percentile_ms(classes, 0.95) == FIRST_TOKEN_BOUNDS_MS[-1]
