"""The interface between the queue and the engines."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from dragoman.core.events import Event
from dragoman.core.tasks import Task
from dragoman.jobs.values.rows import ClaimedJob


class JobExecution(Protocol):
    """The execution of one job's requests."""

    @property
    def generated_tokens(self) -> int:
        """Tokens generated so far, of all choices and candidates, including those that a request resumes after."""
        ...

    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over the events, once. Raises core.errors."""
        ...

    async def aclose(self) -> None:
        """Stop the execution. Must be called in any case."""
        ...


class JobExecutor(Protocol):
    """The models of this process. Implemented by gateway.execution.jobs."""

    def models(self) -> Sequence[str]:
        """Return the names of the models that jobs can run on, without aliases."""
        ...

    def fingerprint(self, model: str) -> str | None:
        """Return the model's fingerprint. None: it is not known yet, or the model is gone."""
        ...

    async def load_model(self, model: str, requests: Sequence[Task]) -> None:
        """Load the model, as running the requests would. Raises core.errors."""
        ...

    def run(self, job: ClaimedJob, requests: Sequence[Task]) -> JobExecution:
        """Run the job's requests, with lower priority than requests that are not queued.

        Raises core.errors, from this call or from the events.
        """
        ...
