"""Admission: whether a request may run, and the reservation that pays for it."""

from typing import Protocol

import msgspec

from dragoman.accounts.ledger.operations import Admission
from dragoman.core.context import Caller
from dragoman.gateway.admission.reservation import Reservation


class AdmissionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to be admitted. Token counts are those of all its prompts and candidates together."""

    caller: Caller
    dialect: str
    model: str
    """The name that the client sent."""
    billed_model: str
    """The canonical name of the model or adapter, which prices go by."""
    fallback_models: tuple[str, ...] = ()
    """Deployments that may answer instead."""
    base_model: str | None = None
    """The model of an adapter, whose price holds for an adapter without one of its own. None: it is no adapter."""
    prompt_tokens: int
    max_completion_tokens: int
    is_buffered: bool
    """Whether nothing is delivered before the end, so that a request that fails costs nothing."""


class AdmissionController(Protocol):
    """Implemented by UnmeteredAdmission, UsageRecordingAdmission and LedgerAdmission."""

    @property
    def needs_token_counts(self) -> bool:
        """Whether admission depends on token counts."""
        ...

    def prepare(self, request: AdmissionRequest) -> Admission:
        """Build the ledger's admission of a request. Raises Unauthenticated without a key that is needed."""
        ...

    def was_refused(self, caller: Caller) -> bool:
        """Whether the caller's last request was refused for want of balance or for a limit."""
        ...

    async def check(self, request: AdmissionRequest) -> None:
        """Refuse what is refused at any size, before the tokens are counted. Raises core.errors."""
        ...

    async def admit(self, request: AdmissionRequest) -> Reservation:
        """Let the request run. Raises core.errors."""
        ...

    def in_client_terms(self, error: Exception, request: AdmissionRequest) -> Exception:
        """Return what the client sees of an error that the ledger gave to `prepare`'s admission."""
        ...
