"""Without accounts: the keys of the settings, or none, and a record of what is used, which costs nothing."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping

import structlog

from dragoman.accounts.client import LedgerClient
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.refusals import LedgerUnavailable
from dragoman.core.allowance import NO_LIMITS
from dragoman.core.errors import Overloaded
from dragoman.gateway.access import Bill, Order
from dragoman.gateway.accounts import AccountsOptions, open_desk
from dragoman.gateway.billing import Cashier
from dragoman.gateway.keys import FREE_OF_CHARGE, KeyRing

_log = structlog.get_logger(__name__)


class RecordingKeyRing(KeyRing):
    """Implements access.Access. A record that cannot be written is left out: it is nothing to refuse a request for."""

    def __init__(self, digests: Iterable[str] | Mapping[str, str], options: AccountsOptions) -> None:
        super().__init__(digests)
        self._options = options
        self._desk: tuple[LedgerClient, Cashier] | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with open_desk(self._options, new_process_id()) as self._desk:
            yield

    async def admit(self, order: Order) -> Bill:
        assert self._desk is not None, "opened before the first request"
        ledger, cashier = self._desk
        try:
            await ledger.admit(self.admission(order))
            return cashier.bill(order, NO_LIMITS)
        except (LedgerUnavailable, Overloaded) as error:
            _log.warning("usage_not_recorded", reason=error.message)
            return FREE_OF_CHARGE
