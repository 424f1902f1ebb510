"""What a dialect may ask of the rest of the server, and nothing more."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Protocol

import msgspec

from dragoman.core.adapters import AdapterOrder, RegisteredAdapter
from dragoman.core.events import Event
from dragoman.core.request import GenerationRequest, Prompt


class ServedModel(msgspec.Struct, frozen=True):
    """A name clients may put into `model`."""

    id: str
    aliases: tuple[str, ...]
    context_length: int | None
    """In tokens; None while the engine has not said it yet."""
    fingerprint: str | None = None
    """Changes exactly when weights, adapter, chat template or engine version do; None while it is not known."""
    thinks: bool = False
    """Whether it thinks before it answers."""
    base: str | None = None
    """Of an adapter: the `id` of the model it belongs to; None: this is such a model itself."""
    created_at: int | None = None
    """When it was registered, in Unix seconds; None: it is there from the start."""


def find_model(models: Iterable[ServedModel], name: str) -> ServedModel | None:
    """The model with this name or alias, compared exactly."""
    return next((model for model in models if name in (model.id, *model.aliases)), None)


class GenerationService(Protocol):
    """The gateway, as a dialect sees it: only what that dialect shows."""

    @property
    def needs_key(self) -> bool:
        """Whether a request must bring a key."""
        ...

    def authenticate(self, key: str | None) -> None:
        """Raise Unauthenticated unless somebody has this key. None: none was sent."""
        ...

    def generate(self, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Event]:
        """Answer several prompts as one request: choice j of prompt i has index i * n + j; one Usage for all.

        Closing the generator cancels what is still running. Raises core.errors, before or between events.
        """
        ...

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        """The prompt tokens a request with this prompt would be told. Raises core.errors."""
        ...

    def models(self) -> list[ServedModel]:
        """All models served, in the order of the settings, and after them their adapters."""
        ...


class UsageSpan(msgspec.Struct, frozen=True):
    """Which of a caller's requests. None: whichever. Days are counted since 1970 (UTC)."""

    first_day: int | None = None
    last_day: int | None = None
    model: str | None = None


class DayOfUsage(msgspec.Struct, frozen=True):
    """The requests to one model with one key of one account, on one day."""

    day: int
    account_id: int
    """0, as the key's: nobody's, the server was open."""
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


class UsageService(Protocol):
    """What a caller's account has and has used. `key` is the caller's; None: none was sent.

    All methods raise Unauthenticated for a key that is not accepted, Overloaded when the database does not answer.
    """

    async def balance(self, key: str | None) -> int:
        """What new requests may use, in nano-units. Raises NoAccount without a key."""
        ...

    async def days(self, key: str | None, span: UsageSpan, *, limit: int, offset: int) -> list[DayOfUsage]:
        """Up to `limit` sums, the latest day first, without the first `offset`."""
        ...

    async def summary(self, key: str | None, span: UsageSpan) -> UsageSummary:
        """The sums of all days."""
        ...


class AccountedService(GenerationService, Protocol):
    """The gateway, as a dialect sees it that tells callers what they have used."""

    @property
    def usage(self) -> UsageService | None:
        """None: nothing is recorded."""
        ...


class AdapterService(GenerationService, Protocol):
    """The gateway, as a dialect sees it whose clients may bring adapters."""

    async def register_adapter(self, order: AdapterOrder, *, token: str | None, key: str | None) -> RegisteredAdapter:
        """Serve an adapter; one that is served already is no error. `key` is the caller's.

        `token` opens the hub for this one download and is not kept. Raises NameTaken, AdapterMissing or BadRequest.
        """
        ...

    async def unregister_adapter(self, name: str) -> RegisteredAdapter:
        """Serve it no longer; what is running with it goes on. Raises ModelNotFound."""
        ...
