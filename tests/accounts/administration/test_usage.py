from dragoman.accounts.administration.keys import KeyRules
from dragoman.accounts.administration.usage import (
    UsageFilter,
    list_daily_usage,
    list_usage,
    sum_usage,
    total_usage,
)
from dragoman.accounts.times import DAY_MILLISECONDS
from tests.support.ledger_harness import LedgerHarness


def test_usage_is_listed_newest_first_page_by_page(harness: LedgerHarness) -> None:
    request_ids = harness.run_requests(7)
    pages, before = [], None
    while page := list_usage(harness.database, before=before, limit=3):
        pages.append([used.request_id for used in page])
        before = page[-1].id
    assert pages == [request_ids[:3:-1], request_ids[3:0:-1], request_ids[:1]]


def test_usage_is_filtered_by_account_key_model_and_days(harness: LedgerHarness) -> None:
    first_key = harness.key_id
    harness.run_requests(2)
    harness.run_requests(3, model="owl")
    harness.use_new_key(KeyRules())
    newest = harness.run_requests(1)
    (used,) = list_usage(harness.database, limit=1)
    today = used.settled_at // DAY_MILLISECONDS

    def count(**conditions: int | str) -> int:
        return len(list_usage(harness.database, UsageFilter(**conditions)))  # type: ignore[arg-type]

    assert used.request_id == newest[0]
    assert (count(), count(account_id=harness.account_id), count(account_id=harness.account_id + 1)) == (6, 6, 0)
    assert (count(key_id=first_key), count(model="owl"), count(key_id=harness.key_id, model="owl")) == (5, 3, 0)
    assert (count(first_day=today), count(first_day=today + 1)) == (6, 0)
    assert (count(last_day=today), count(last_day=today - 1)) == (6, 0)


def test_days_are_summed_as_requests_are_settled(harness: LedgerHarness) -> None:
    harness.run_requests(2)
    harness.run_requests(3, model="owl")
    days = {each.model: each for each in list_daily_usage(harness.database)}
    assert (days["parrot"].requests, days["owl"].requests) == (2, 3)
    assert days["parrot"].charge == harness.account.charges
    totals = total_usage(harness.database, UsageFilter(account_id=harness.account_id))
    assert (totals.requests, totals.prompt_tokens, totals.completion_tokens) == (5, 5, 5)
    assert (totals.models, totals.keys) == (2, 1)
    assert (totals.first_day, totals.last_day) == (days["owl"].day, days["owl"].day)
    nothing = total_usage(harness.database, UsageFilter(first_day=days["owl"].day + 1))
    assert (nothing.requests, nothing.first_day, nothing.last_day) == (0, None, None)
    assert list_daily_usage(harness.database, UsageFilter(model="owl"), limit=1) == [days["owl"]]
    assert list_daily_usage(harness.database, UsageFilter(model="owl"), offset=1) == []


def test_usage_is_summed_by_day_model_and_key(harness: LedgerHarness) -> None:
    first_key = harness.key_id
    harness.run_requests(2)
    harness.use_new_key(KeyRules())
    harness.run_requests(3, model="owl")
    (day,) = sum_usage(harness.database, "day")
    assert (day.requests, day.prompt_tokens, day.completion_tokens, day.charge) == (5, 5, 5, harness.account.charges)
    assert [(each.group, each.requests) for each in sum_usage(harness.database, "model")] == [("parrot", 2), ("owl", 3)]
    by_key = [(each.group, each.requests) for each in sum_usage(harness.database, "key_id")]
    assert by_key == [(first_key, 2), (harness.key_id, 3)]
    assert sum_usage(harness.database, "model", UsageFilter(model="owl"), limit=1)[0].group == "owl"


def test_a_server_without_keys_records_usage_without_account(harness: LedgerHarness) -> None:
    harness.run_requests(1, key_digest=None)
    (used,) = list_usage(harness.database)
    assert (used.account_id, used.key_id, used.charge) == (None, None, 0)
    (day,) = list_daily_usage(harness.database)
    assert (day.account_id, day.key_id, day.requests) == (0, 0, 1)
