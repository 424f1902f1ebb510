"""What a dialect may ask of the rest of the server, and nothing more."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol

import msgspec

from dragoman.core.adapters import AdapterSpec, RegisteredAdapter
from dragoman.core.events import Event
from dragoman.core.identifiers import key_digest
from dragoman.core.rate_limits import Allowances
from dragoman.core.request import GenerationRequest, Prompt


class ServedModel(msgspec.Struct, frozen=True):
    """A name clients may put into `model`."""

    id: str
    aliases: tuple[str, ...]
    context_length: int | None
    """In tokens; None while the engine has not said it yet."""
    fingerprint: str | None = None
    """Changes exactly when weights, adapter, chat template or engine version do; None while it is not known."""
    supports_reasoning: bool = False
    """Whether it thinks before it answers."""
    base: str | None = None
    """Of an adapter: the `id` of the model it belongs to; None: this is such a model itself."""
    created_at: int | None = None
    """When it was registered, in Unix seconds; None: it is there from the start."""


def find_model(models: Iterable[ServedModel], name: str) -> ServedModel | None:
    """The model with this name or alias, compared exactly."""
    return next((model for model in models if name in (model.id, *model.aliases)), None)


class Caller(msgspec.Struct, frozen=True):
    """Who asks, as far as the request tells."""

    request_id: str
    """32 hex digits, never used before: the name of what is asked in answers, logs and usage."""
    key: str | None
    """None: none was sent."""
    address: str = ""
    """The client's IP address, as far as it is known."""
    account: str | None = None
    """The account that is to pay, by its number or name; None: the key's own."""
    key_digest: str = ""
    """What is known of the key everywhere else; empty without one. Made from it, once."""

    def __post_init__(self) -> None:
        if self.key:
            msgspec.structs.force_setattr(self, "key_digest", key_digest(self.key))

    def __repr__(self) -> str:
        return f"Caller({self.request_id!r})"  # The key must not get into a log.


class VisibleModels(Protocol):
    """What a caller may know of the models."""

    def models(self) -> list[ServedModel]:
        """All models served, in the order of the settings, and after them their adapters."""
        ...

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        """The prompt tokens a request with this prompt would be told. Raises core.errors."""
        ...


class EventStream(Protocol):
    """A request that was admitted and is being answered."""

    @property
    def allowances(self) -> Allowances:
        """What the key has left of its limits per minute, this request counted."""
        ...

    def __aiter__(self) -> AsyncIterator[Event]:
        """The events, once. Raises core.errors."""
        ...

    async def aclose(self) -> None:
        """Cancel what is still running. To be called whatever happens: the request is paid then at the latest."""
        ...


class GenerationService(VisibleModels, Protocol):
    """The gateway, as a dialect sees it: only what that dialect shows."""

    @property
    def needs_key(self) -> bool:
        """Whether a request must bring a key."""
        ...

    async def reject_unknown_key(self, caller: Caller) -> None:
        """Keep out whose key nobody has, before more is done for them. Raises core.errors.

        A key that was good a moment ago is let pass: `generate` and `check` look again.
        """
        ...

    async def check_access(self, caller: Caller, model: str | None = None) -> None:
        """What is wrong with a request before its body is: the key, the balance, the rate, and then the model.

        For requests that cannot be answered; `generate` checks all this itself. Raises core.errors.
        """
        ...

    async def visible_to(self, caller: Caller) -> VisibleModels:
        """What this caller may know of. Raises core.errors for who may not come in."""
        ...

    async def generate(
        self, requests: Sequence[GenerationRequest], caller: Caller, *, streamed: bool = False
    ) -> EventStream:
        """Admit several prompts as one request: choice j of prompt i has index i * n + j; one Usage for all.

        `streamed`: the events are delivered as they come, so that even a request that fails has something to pay for.
        Raises core.errors.
        """
        ...


class UsageRange(msgspec.Struct, frozen=True):
    """Which of an account's requests. None: whichever. Days are counted since 1970 (UTC)."""

    first_day: int | None = None
    last_day: int | None = None
    model: str | None = None


class DailyTotals(msgspec.Struct, frozen=True):
    """The requests to one model with one key of one account, on one day."""

    day: int
    account_id: int
    key_id: int
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int


class UsageSummary(msgspec.Struct, frozen=True):
    """Sums of many days."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    keys: int
    models: int
    first_day: int | None
    """The first with any requests; None: there are none."""
    last_day: int | None


class AccountUsage(Protocol):
    """What an account has and has used."""

    @property
    def balance(self) -> int:
        """What new requests may use, in nano-units."""
        ...

    async def days(self, usage_range: UsageRange, *, limit: int, offset: int) -> list[DailyTotals]:
        """Up to `limit` sums, the latest day first, without the first `offset`. Raises Overloaded."""
        ...

    async def summary(self, usage_range: UsageRange) -> UsageSummary:
        """The sums of all days. Raises Overloaded."""
        ...


class UsageReportingService(GenerationService, Protocol):
    """The gateway, as a dialect sees it that tells callers what they have used."""

    async def usage_of(self, caller: Caller) -> AccountUsage:
        """That of the account that pays for the caller's requests. Raises NoAccount where none does."""
        ...


class AdapterService(GenerationService, Protocol):
    """The gateway, as a dialect sees it whose clients may bring adapters."""

    async def register_adapter(self, spec: AdapterSpec, caller: Caller, *, token: str | None) -> RegisteredAdapter:
        """Serve an adapter; one that is served already is no error.

        `token` opens the hub for this one download and is not stored. Raises ModelNameTaken, AdapterMissing or
        BadRequest, and Forbidden for a key that is not for all models.
        """
        ...

    async def unregister_adapter(self, name: str, caller: Caller) -> RegisteredAdapter:
        """Serve it no longer; what is running with it goes on. Raises ModelNotFound, Forbidden."""
        ...
