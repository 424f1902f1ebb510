"""The keys of the settings, which open the server and cost nothing."""

import contextlib
import hmac
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager

from dragoman.accounts.ledger.operations import Admission
from dragoman.core.errors import KeyUnknown, Unauthenticated
from dragoman.core.events import Event
from dragoman.core.identifiers import key_digest
from dragoman.core.rate_limits import NO_LIMITS
from dragoman.core.service import Caller
from dragoman.gateway.admission.controller import AdmissionRequest, EndReason, Principal, Reservation


class UnmeteredReservation:
    """Implements access.Bill: nothing is counted and nothing paid."""

    allowances = NO_LIMITS

    def observe(self, event: Event) -> None: ...

    def settle(self, reason: EndReason) -> None: ...


UNMETERED = UnmeteredReservation()


class StaticKeyAuthenticator:
    """Implements access.Access. Keys, known by their digests alone; without any, everybody may come in."""

    needs_token_counts = False

    def __init__(self, digests: Iterable[str] | Mapping[str, str]) -> None:
        """The digests may come with labels: what people call the keys."""
        self._digests = tuple(digests)
        self._labels = digests if isinstance(digests, Mapping) else {}

    @property
    def needs_key(self) -> bool:
        return bool(self._digests)

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Until the end of the block requests may come."""
        return contextlib.nullcontext()

    def label(self, key: str | None) -> str:
        """What people call the key; empty if nobody gave it a name."""
        return self._labels.get(key_digest(key), "") if key else ""

    def require(self, key: str | None) -> None:
        """Raise Unauthenticated unless the key is one of them. How long it takes tells nothing about them."""
        if not key:
            raise Unauthenticated("missing")
        digest = key_digest(key)
        # All are compared: stopping at the right one would tell where it stands.
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            raise KeyUnknown().with_key(key)

    async def reject_unknown_key(self, caller: Caller, dialect: str | None) -> None:  # noqa: ARG002
        if self._digests:
            self.require(caller.key)

    async def authenticate(self, caller: Caller, dialect: str | None) -> Principal:
        await self.reject_unknown_key(caller, dialect)
        return Principal(self.label(caller.key))

    async def check_access(self, caller: Caller, dialect: str) -> Principal:
        return await self.authenticate(caller, dialect)

    async def admit(self, request: AdmissionRequest) -> Reservation:  # noqa: ARG002
        return UNMETERED

    def build_admission(self, request: AdmissionRequest) -> Admission:
        return Admission(
            request_id=request.caller.request_id,
            key_digest=None,
            model=request.billed_model,
            dialect=request.dialect,
            prompt_tokens=0,
            max_completion_tokens=0,
        )

    def translate_error(self, request: AdmissionRequest, error: Exception) -> Exception:  # noqa: ARG002
        return error


NO_KEYS = StaticKeyAuthenticator(())
