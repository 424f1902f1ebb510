"""What callers may know of their accounts."""

import msgspec

from dragoman.accounts.administration.usage import UsageFilter, list_daily_usage, total_usage
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.usage import DailyTotals, UsageRange, UsageSummary
from dragoman.gateway.auth.authenticator import BillingAccount


class RecordedUsage:
    """Implements core.usage.AccountUsage with the accounts' database."""

    def __init__(self, thread: DatabaseThread, billing_account: BillingAccount) -> None:
        self.balance = billing_account.balance
        self._thread = thread
        self._account_id = billing_account.account_id

    async def days(self, usage_range: UsageRange, *, limit: int, offset: int) -> list[DailyTotals]:
        usage_filter = self._usage_filter(usage_range)
        days = await self._thread.run(list_daily_usage, self._thread.database, usage_filter, limit=limit, offset=offset)
        return [msgspec.convert(day, DailyTotals, from_attributes=True) for day in days]

    async def summary(self, usage_range: UsageRange) -> UsageSummary:
        totals = await self._thread.run(total_usage, self._thread.database, self._usage_filter(usage_range))
        return msgspec.convert(totals, UsageSummary, from_attributes=True)

    def _usage_filter(self, usage_range: UsageRange) -> UsageFilter:
        return UsageFilter(
            account_id=self._account_id,
            model=usage_range.model,
            first_day=usage_range.first_day,
            last_day=usage_range.last_day,
        )
