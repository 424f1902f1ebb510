"""Without accounts: the keys of the settings, or none, and a record of what is used, which costs nothing."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping

import structlog

from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.process.client import LedgerClient
from dragoman.core.errors import Overloaded
from dragoman.core.rate_limits import NO_LIMITS
from dragoman.gateway.admission.controller import AdmissionRequest, Reservation
from dragoman.gateway.admission.settler import Settler
from dragoman.gateway.auth.account_keys import AccountsOptions, open_accounting
from dragoman.gateway.auth.static_keys import UNMETERED, StaticKeyAuthenticator

_log = structlog.get_logger(__name__)


class UsageRecordingAuthenticator(StaticKeyAuthenticator):
    """Implements access.Access. A record that cannot be written is left out: it is nothing to refuse a request for."""

    def __init__(self, digests: Iterable[str] | Mapping[str, str], options: AccountsOptions) -> None:
        super().__init__(digests)
        self._options = options
        self._accounting: tuple[LedgerClient, Settler] | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with open_accounting(self._options, new_process_id()) as self._accounting:
            yield

    async def admit(self, request: AdmissionRequest) -> Reservation:
        assert self._accounting is not None, "opened before the first request"
        ledger, settler = self._accounting
        try:
            await ledger.admit(self.build_admission(request))
            return settler.open(request, NO_LIMITS)
        except Overloaded as error:
            _log.warning("usage_recording_failed", reason=error.message)
            return UNMETERED
