"""The seam between the queue and what runs models."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from dragoman.core.events import Event
from dragoman.core.request import GenerationRequest


class JobExecution(Protocol):
    """A request that is being answered."""

    @property
    def generated_tokens(self) -> int:
        """Tokens generated so far, of all choices and candidates, those included that a request has begun with."""
        ...

    def __aiter__(self) -> AsyncIterator[Event]:
        """The events, once. Raises core.errors."""
        ...

    async def aclose(self) -> None:
        """Stop it. To be called whatever happens."""
        ...


class JobExecutor(Protocol):
    """The models of this process. Implemented by gateway.queueing."""

    def models(self) -> Sequence[str]:
        """Those that can be asked, by their own names."""
        ...

    def fingerprint(self, model: str) -> str | None:
        """That of the model; None: it is not known yet, or the model is gone."""
        ...

    async def load_model(self, model: str, requests: Sequence[GenerationRequest]) -> None:
        """Have the model loaded, as running the requests would. Raises core.errors."""
        ...

    def run(self, model: str, requests: Sequence[GenerationRequest], priority: int) -> JobExecution:
        """Answer the requests as one, after all that is not queued. Raises core.errors, now or from its events."""
        ...
