"""What a dialect may ask of the gateway. All methods raise core.errors."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from dragoman.core.adapters import AdapterSpec, RegisteredAdapter
from dragoman.core.answered_by import AnsweredBy
from dragoman.core.context import Caller
from dragoman.core.events import Event
from dragoman.core.jobs import Job, JobDraft
from dragoman.core.models import ServedModel, TokenizedPrompt
from dragoman.core.rate_limits import Allowances
from dragoman.core.request import Prompt
from dragoman.core.tasks import Task
from dragoman.core.usage import AccountUsage


class VisibleModels(Protocol):
    """The models that a caller may know of."""

    def models(self) -> list[ServedModel]:
        """List models in the order of the settings, and after them their adapters."""
        ...

    def find_model(self, name: str) -> ServedModel | None:
        """Return the model with this name or alias, compared exactly."""
        ...

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        """Count the prompt tokens that a request with this prompt would report."""
        ...

    async def tokenize(self, model: str, prompt: Prompt) -> TokenizedPrompt:
        """Return the prompt tokens of a request with this prompt."""
        ...

    async def detokenize(self, model: str, token_ids: Sequence[int]) -> str:
        """Return the text of these tokens, special ones included."""
        ...


class EventStream(Protocol):
    """The events of an admitted request."""

    @property
    def allowances(self) -> Allowances:
        """What is left of the key's limits per minute, this request counted."""
        ...

    @property
    def answered_by(self) -> AnsweredBy | None:
        """The server that answers, from the first event on. None: there was nothing to choose, or it is not known."""
        ...

    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over the events, once."""
        ...

    async def aclose(self) -> None:
        """Cancel what still runs. Must be called in any case: it settles the request at the latest."""
        ...


class GenerationService(VisibleModels, Protocol):
    """The gateway as one dialect sees it, with the models that this dialect shows to all its callers.

    Callers may have adapters of their own besides: `visible_to` has them too.
    """

    @property
    def needs_key(self) -> bool:
        """Whether a request must bring a key."""
        ...

    async def reject_unknown_key(self, caller: Caller) -> None:
        """Reject unknown keys before more is done for them.

        A key that was valid recently passes without a lookup: `generate` and `check_access` check it again.
        """
        ...

    async def check_access(self, caller: Caller, model: str | None = None) -> None:
        """Check key, balance, rate and then the model, for requests whose body is invalid.

        These errors precede those of the body. `generate` checks all of them itself.
        """
        ...

    def preparation_turn(
        self, requests: Sequence[Task], caller: Caller
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """Prepare and admit the requests within the block, one of an account at a time if they are large.

        Key, balance and rate are checked first if the requests are large, or if the key's last one was refused.
        """
        ...

    def counting_turn(self, caller: Caller) -> contextlib.AbstractAsyncContextManager[None]:
        """Count tokens within the block, one request of an account at a time.

        Key, balance and rate are checked first, and the request counts towards the rate.
        """
        ...

    async def visible_to(self, caller: Caller) -> VisibleModels:
        """Authenticate the caller and return the models that it may know of."""
        ...

    async def owner(self, caller: Caller) -> str:
        """Authenticate the caller and return who owns its jobs and stored responses, in whatever dialect.

        That is the account that pays, or without accounts the key; empty without keys.
        """
        ...

    async def with_images(self, requests: Sequence[Task], caller: Caller) -> Sequence[Task]:
        """Return the requests with the images themselves in place of their http(s) addresses, as `generate` does it.

        Raises BadRequest for an image that cannot be fetched, and what `generate` raises for a request that may not
        run.
        """
        ...

    async def generate(self, requests: Sequence[Task], caller: Caller, *, streamed: bool = False) -> EventStream:
        """Admit several prompts as one request: choice j of prompt i has index i * n + j; one Usage for all.

        `streamed`: events are delivered as they come, so that even a request that fails has something to pay for.
        """
        ...


class UsageReportingService(GenerationService, Protocol):
    """The gateway for dialects that report usage."""

    async def usage_of(self, caller: Caller) -> AccountUsage:
        """Return the usage of the account that pays for the caller's requests. Raises NoAccount without one."""
        ...


class AdapterService(GenerationService, Protocol):
    """The gateway for dialects whose clients may register adapters."""

    async def register_adapter(self, spec: AdapterSpec, caller: Caller, *, token: str | None) -> RegisteredAdapter:
        """Serve an adapter to the caller's account, or without accounts to its key. Succeeds also if it is served.

        `token` authorizes this one download from the hub and is not stored. Raises ModelNameTaken, AdapterMissing or
        BadRequest, InsufficientBalance, Limited, and Forbidden for a key that may not use all models or if the server
        lets no client register adapters.
        """
        ...

    async def unregister_adapter(self, name: str, caller: Caller) -> RegisteredAdapter:
        """Stop serving an adapter of the caller's. Requests that run with it continue.

        Raises ModelNotFound, also for another owner's adapter, and Forbidden for one of the operator's.
        """
        ...


class QueueService(GenerationService, Protocol):
    """The gateway for dialects whose requests may be queued."""

    @property
    def has_queue(self) -> bool:
        """Whether there is a queue, which needs a database."""
        ...

    async def submit(self, draft: JobDraft, caller: Caller) -> Job:
        """Admit the request and queue it. The returned job survives a loss of power.

        Raises Overloaded when the queue is full or cannot be used, Limited when the owner's share of it is full,
        IdempotencyConflict, and what `generate` raises for a request that may not run.
        """
        ...

    async def job(self, job_id: str, caller: Caller) -> Job:
        """Return the job's current state. Raises JobNotFound, also for another owner's job."""
        ...

    async def cancel_job(self, job_id: str, caller: Caller) -> Job:
        """Cancel the job and settle what was generated; a job that has ended stays as it is. Raises JobNotFound."""
        ...

    async def delete_job(self, job_id: str, caller: Caller) -> None:
        """Cancel the job unless it has ended, and remove all that is stored of it. Raises JobNotFound."""
        ...

    async def follow_job(self, job_id: str, caller: Caller) -> EventStream:
        """Return the job's events from the first on, and those to come; each survives this process.

        They end with the error of a job that failed, JobTimedOut or JobCancelled. Closing the stream cancels nothing.
        Raises JobNotFound.
        """
        ...
