"""One step after another: choose, decode, sample, publish. No thread, no socket and no clock in here."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dragoman.core.events import Delta, Event, Finished, Usage
from dragoman.engines.choice import Choice, TokenText
from dragoman.engines.llama.backend import Backend
from dragoman.engines.llama.cache import PrefixCache
from dragoman.engines.llama.context import Chunk, Logits
from dragoman.engines.llama.sampler import Sampler
from dragoman.engines.llama.scheduler import Scheduler, Work
from dragoman.engines.llama.sequence import Job, JobKey, Sequence


class Outcome(NamedTuple):
    """An event of the job the caller named `key`."""

    key: JobKey
    event: Event


class Batcher:
    """All jobs of one model. Every method is called from the thread that owns the backend."""

    def __init__(
        self, backend: Backend, vocabulary: TokenText, *, parallel: int, step_tokens: int, saved_tokens: int
    ) -> None:
        self._backend = backend
        self._vocabulary = vocabulary
        self.cache = PrefixCache(backend, saved_tokens)
        self.scheduler = Scheduler(self.cache, parallel, step_tokens)
        self._jobs: dict[JobKey, list[Sequence]] = {}
        self._arrivals = 0
        self._leaving: set[int] = set()
        """Adapters to unload when their last job is over."""

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._jobs

    @property
    def waiting_jobs(self) -> int:
        """Jobs of which no choice has a slot."""
        started = {sequence.job.key for sequence in self.scheduler.running}
        return len({sequence.job.key for sequence in self.scheduler.waiting} - started)

    def add(self, job: Job, n: int, seed: int) -> None:
        """Let `n` choices of the job wait for their turn."""
        self._arrivals += 1
        sampling = job.sampling
        self._jobs[job.key] = sequences = []
        for index in range(n):
            sampler = Sampler(
                sampling,
                seed,
                index,
                job.prompt,
                self._vocabulary.end_token_ids,
                self._backend.vocabulary_size,
            )
            sequence = Sequence(job, index, self._arrivals, sampler, Choice(self._vocabulary, sampling, job.limit))
            sequences.append(sequence)
            self.scheduler.add(sequence)

    def cancel(self, key: JobKey) -> None:
        """Forget the job, if it is not over yet; nothing more is published about it."""
        for sequence in self._jobs.pop(key, ()):
            self.scheduler.remove(sequence)
        self._unload_leaving()

    def load_adapter(self, path: Path, scale: float) -> int:
        """The number of the adapter, for jobs. Raises ModelError when the file does not fit the model."""
        return self._backend.load_adapter(path, scale)

    def unload_adapter(self, adapter: int) -> None:
        """Free the adapter as soon as its jobs are over; no new one may have it."""
        self._leaving.add(adapter)
        self._unload_leaving()

    def step(self) -> list[Outcome]:
        """Compute what the scheduler chose; returns what there is to publish. Raises DecodeError."""
        work = self.scheduler.choose()
        if not work:
            return []
        logits = self._backend.decode([_chunk(item) for item in work], work[0].sequence.adapter)
        for item in work:
            item.sequence.computed += item.length
        complete = [item.sequence for item in work if item.sequence.pending == 0]
        rows = zip(complete, logits, strict=True)
        outcomes = [outcome for sequence, row in rows for outcome in self._sample(sequence, row)]
        self._unload_leaving()
        return outcomes

    def rest(self) -> bool:
        """Use a moment in which nothing is to do; False: there is no use for it."""
        return self.cache.save_one()

    def _unload_leaving(self) -> None:
        used = {sequences[0].adapter for sequences in self._jobs.values()} if self._leaving else set()
        for adapter in self._leaving - used:
            self._leaving.remove(adapter)
            self.cache.forget_adapter(adapter)
            self._backend.unload_adapter(adapter)

    def _sample(self, sequence: Sequence, logits: Logits) -> Iterator[Outcome]:
        job, choice = sequence.job, sequence.choice
        token = sequence.sampler.sample(logits, choice.tokens, bar_ends=choice.ends_are_barred)
        if job.echo and not choice.tokens:
            yield Outcome(job.key, Delta(sequence.index, job.echo, []))
        sequence.append(token)
        job.completion_tokens += 1
        text, reason = choice.accept(token)
        yield Outcome(job.key, Delta(sequence.index, text, [token]))
        if reason is not None:
            yield Outcome(job.key, Finished(sequence.index, reason))
            yield from self._retire(sequence)

    def _retire(self, sequence: Sequence) -> Iterator[Outcome]:
        job = sequence.job
        self.scheduler.finish(sequence)
        self._jobs[job.key].remove(sequence)
        if not self._jobs[job.key]:
            del self._jobs[job.key]
            yield Outcome(job.key, Usage(len(job.prompt), job.completion_tokens, job.cached_tokens or 0))


def _chunk(work: Work) -> Chunk:
    sequence, end = work.sequence, work.position + work.length
    return Chunk(
        sequence.sequence_id if sequence.sequence_id is not None else -1,
        work.position,
        sequence.tokens[work.position : end],
        end == sequence.length,
    )
