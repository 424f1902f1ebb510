"""What callers may know of their accounts. Implements core's UsageService."""

from dragoman.accounts import usage
from dragoman.accounts.identifiers import key_digest
from dragoman.accounts.ledger import Ledger
from dragoman.accounts.operations import Inquiry, KeyFacts
from dragoman.accounts.refusals import KeyRefused, NotAllowed
from dragoman.accounts.usage import UsageFilter
from dragoman.core.errors import NoAccount, Unauthenticated
from dragoman.core.service import DayOfUsage, UsageSpan, UsageSummary
from dragoman.gateway.database_thread import DatabaseThread

_NOBODY = 0
"""The account under which the usage of an open server is recorded."""


class AccountUsage:
    """Usage as the accounts' database has it, of the account that the caller's key pays from."""

    def __init__(self, thread: DatabaseThread, process_id: int, dialect: str) -> None:
        """Keys are asked for in the name of `dialect`, which not every key may use."""
        self._thread = thread
        self._ledger = Ledger(thread.database, process_id)
        self._dialect = dialect

    async def balance(self, key: str | None) -> int:
        if key is None:
            raise NoAccount("Without a key there is no account, and so no balance")
        return (await self._facts(key)).balance

    async def days(self, key: str | None, span: UsageSpan, *, limit: int, offset: int) -> list[DayOfUsage]:
        wanted = await self._filter(key, span)
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

    async def summary(self, key: str | None, span: UsageSpan) -> UsageSummary:
        wanted = await self._filter(key, span)
        sums = await self._thread.run(usage.total_usage, self._thread.database, wanted)
        return UsageSummary(
            sums.requests,
            sums.prompt_tokens,
            sums.completion_tokens,
            sums.keys,
            sums.models,
            sums.first_day,
            sums.last_day,
        )

    def close(self) -> None:
        """Close the connection; when the thread has ended."""
        self._ledger.close()

    async def _filter(self, key: str | None, span: UsageSpan) -> UsageFilter:
        account_id = _NOBODY if key is None else (await self._facts(key)).account_id
        return UsageFilter(account_id, model=span.model, first_day=span.first_day, last_day=span.last_day)

    async def _facts(self, key: str) -> KeyFacts:
        (outcome,) = await self._thread.run(self._ledger.commit, [Inquiry(key_digest(key), self._dialect)])
        if isinstance(outcome, KeyFacts):
            return outcome
        if isinstance(outcome, KeyRefused | NotAllowed):
            raise Unauthenticated("unknown", key) from outcome
        assert isinstance(outcome, Exception), "an inquiry is answered with facts or refused"
        raise outcome
