"""What callers may know of their accounts."""

from dragoman.accounts.administration import usage
from dragoman.accounts.administration.usage import UsageFilter
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.service import DailyTotals, UsageRange, UsageSummary
from dragoman.gateway.admission.controller import BillingAccount


class RecordedUsage:
    """Implements core.service.AccountUsage with what the accounts' database has."""

    def __init__(self, thread: DatabaseThread, billing_account: BillingAccount) -> None:
        self.balance = billing_account.balance
        self._thread = thread
        self._account_id = billing_account.account_id

    async def days(self, usage_range: UsageRange, *, limit: int, offset: int) -> list[DailyTotals]:
        usage_filter = self._usage_filter(usage_range)
        rows = await self._thread.run(
            usage.list_daily_usage, self._thread.database, usage_filter, limit=limit, offset=offset
        )
        return [
            DailyTotals(
                each.day,
                each.account_id,
                each.key_id,
                each.model,
                each.requests,
                each.prompt_tokens,
                each.completion_tokens,
            )
            for each in rows
        ]

    async def summary(self, usage_range: UsageRange) -> UsageSummary:
        totals = await self._thread.run(usage.total_usage, self._thread.database, self._usage_filter(usage_range))
        return UsageSummary(
            totals.requests,
            totals.prompt_tokens,
            totals.completion_tokens,
            totals.keys,
            totals.models,
            totals.first_day,
            totals.last_day,
        )

    def _usage_filter(self, usage_range: UsageRange) -> UsageFilter:
        return UsageFilter(
            account_id=self._account_id,
            model=usage_range.model,
            first_day=usage_range.first_day,
            last_day=usage_range.last_day,
        )
