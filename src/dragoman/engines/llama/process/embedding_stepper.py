"""The stepper of a model for embeddings."""

from collections.abc import Callable, Sequence
from functools import partial

from dragoman.engines.base import EngineStatistics
from dragoman.engines.llama.batching.batcher import RequestOutput
from dragoman.engines.llama.embedding.batcher import EmbeddingBatcher, EmbeddingJob
from dragoman.engines.llama.process.displacement import displaceable
from dragoman.engines.llama.process.stepper import CommandThread


class EmbeddingStepper(CommandThread):
    """Owns an EmbeddingBatcher."""

    def __init__(
        self, batcher: EmbeddingBatcher, *, max_waiting: int, publish: Callable[[list[RequestOutput]], None]
    ) -> None:
        """`max_waiting`: the most requests that have not ended."""
        super().__init__(batcher, publish=publish)
        self._batcher = batcher
        self._max_waiting = max_waiting

    def add(self, job: EmbeddingJob) -> None:
        """Queue the job, or publish Overloaded. Blocks only while thousands of commands wait."""
        self._put(partial(self._add, job))

    def _add(self, job: EmbeddingJob) -> None:
        jobs = self._batcher.jobs
        if len(jobs) >= self._max_waiting:
            refused = job_to_displace(jobs, job) or job
            self._batcher.cancel(refused.key)
            self._pending_outputs.append(RequestOutput(refused.key, self._overloaded(self._max_waiting)))
            if refused is job:
                return
        self._batcher.add(job)

    def _statistics(self) -> EngineStatistics:
        waiting = sum(job.remaining for job in self._batcher.jobs)
        return EngineStatistics(running=0, waiting=waiting, kv_cells_used=0, kv_cells_cached=0, kv_cells_total=0)


def job_to_displace(jobs: Sequence[EmbeddingJob], new: EmbeddingJob) -> EmbeddingJob | None:
    """Return the job that has to leave its place to another. None if no owner has two more than the new one's owner.

    It is the youngest of the owner with the most, of those that are no more urgent than the new one.
    """
    candidates = displaceable((job for job in jobs if job.priority >= new.priority), new.owner)
    return candidates[-1] if candidates else None
