"""What callers may know of their accounts."""

from dragoman.accounts import usage
from dragoman.accounts.database_thread import DatabaseThread
from dragoman.accounts.usage import UsageFilter
from dragoman.core.service import DayOfUsage, UsageSpan, UsageSummary
from dragoman.gateway.access import Payer


class RecordedUsage:
    """Implements core.service.AccountUsage with what the accounts' database has."""

    def __init__(self, thread: DatabaseThread, payer: Payer) -> None:
        self.balance = payer.balance
        self._thread = thread
        self._account_id = payer.account_id

    async def days(self, span: UsageSpan, *, limit: int, offset: int) -> list[DayOfUsage]:
        wanted = self._wanted(span)
        found = await self._thread.run(usage.list_days, self._thread.database, wanted, limit=limit, offset=offset)
        return [
            DayOfUsage(
                each.day,
                each.account_id,
                each.key_id,
                each.model,
                each.requests,
                each.prompt_tokens,
                each.completion_tokens,
            )
            for each in found
        ]

    async def summary(self, span: UsageSpan) -> UsageSummary:
        sums = await self._thread.run(usage.total_usage, self._thread.database, self._wanted(span))
        return UsageSummary(
            sums.requests,
            sums.prompt_tokens,
            sums.completion_tokens,
            sums.keys,
            sums.models,
            sums.first_day,
            sums.last_day,
        )

    def _wanted(self, span: UsageSpan) -> UsageFilter:
        return UsageFilter(self._account_id, model=span.model, first_day=span.first_day, last_day=span.last_day)
