"""One step after another: choose, decode, sample, publish. No thread, no socket and no clock in here."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dragoman.core.errors import BadRequest, EngineFailed
from dragoman.core.events import Delta, Event, Finished, TokenLogprobs, Usage
from dragoman.engines import logprobs
from dragoman.engines.checks import resume_past_end
from dragoman.engines.choice import DetokenizerVocabulary, OutputProcessor
from dragoman.engines.constraint import ConstraintFailed, GrammarConstraint, MaskWorker
from dragoman.engines.llama.backend import Backend
from dragoman.engines.llama.cache import PrefixCache
from dragoman.engines.llama.context import Chunk, Logits
from dragoman.engines.llama.sampler import NothingAllowed, Sampler
from dragoman.engines.llama.scheduler import Scheduler, Work
from dragoman.engines.llama.sequence import Job, JobKey
from dragoman.engines.llama.sequence import Sequence as ChoiceSequence


class Outcome(NamedTuple):
    """An event of the job the caller named `key`, or why there are no more."""

    key: JobKey
    event: Event | EngineFailed


class Batcher:
    """All jobs of one model. Every method is called from the thread that owns the backend."""

    def __init__(
        self, backend: Backend, vocabulary: DetokenizerVocabulary, *, parallel: int, step_tokens: int, saved_tokens: int
    ) -> None:
        self._backend = backend
        self._vocabulary = vocabulary
        self._masks = MaskWorker()
        self.cache = PrefixCache(backend, saved_tokens)
        self.scheduler = Scheduler(self.cache, parallel, step_tokens)
        self._jobs: dict[JobKey, list[ChoiceSequence]] = {}
        self._arrivals = 0
        self._leaving: set[int] = set()
        """Adapters to unload when their last job is over."""

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._jobs

    def add(self, job: Job, n: int, seed: int) -> list[Outcome]:
        """Let `n` choices of the job wait for their turn; returns what there is to publish of those that were begun.

        Raises BadRequest, and takes nothing, when they cannot have begun like that.
        """
        self._arrivals += 1
        sequences = [self._sequence(job, index, seed) for index in range(n)]
        self._jobs[job.key] = list(sequences)
        try:
            outcomes = [outcome for sequence in sequences for outcome in self._replay(sequence)]
        except BadRequest:
            self._jobs.pop(job.key, None)
            raise
        for sequence in self._jobs.get(job.key, ()):  # Those that are not over already.
            self.scheduler.add(sequence)
        return outcomes

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
        chunks = [_chunk(item) for item in work]
        self._masks.begin(bound for item in work if item.is_last and (bound := item.sequence.bound))
        logits = self._backend.decode(chunks, work[0].sequence.adapter)
        self._masks.wait()
        for item in work:
            item.sequence.computed += item.length
        outcomes = [outcome for item, rows in _with_rows(work, chunks, logits) for outcome in self._use(item, rows)]
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

    def _sequence(self, job: Job, index: int, seed: int) -> ChoiceSequence:
        sampling, reading, ends = job.sampling, job.reading, self._vocabulary.end_token_ids
        sampler = Sampler(sampling, seed, index, job.prompt, ends, self._backend.vocabulary_size)
        choice = OutputProcessor(
            self._vocabulary, sampling, job.limit, index=index, parser=reading.new_reader(), markup=reading.markup
        )
        return ChoiceSequence(job, index, self._arrivals, sampler, choice)

    def _replay(self, sequence: ChoiceSequence) -> Iterator[Outcome]:
        """Tell what an earlier attempt generated as if it had just been sampled. Raises BadRequest."""
        if not sequence.begun:
            return
        first = sequence.begun[0]
        sequence.sampler.note(first)
        try:
            yield from self._go_on(sequence, first)
        except ConstraintFailed as failure:
            reason = f"begun holds tokens of choice {sequence.index} that its grammar does not allow: {failure}"
            raise BadRequest(reason, "begun") from failure
        if sequence.generated < len(sequence.begun):
            raise resume_past_end(sequence.index, len(sequence.begun), sequence.generated)

    def _use(self, work: Work, rows: Logits) -> Iterator[Outcome]:
        """Do with the logits of one piece of work what they were computed for."""
        sequence = work.sequence
        job = sequence.job
        if job.key not in self._jobs:
            return  # Another choice of the job has just failed.
        if sequence.tells_prompt:
            self._report_prompt(work, rows)
        if sequence.pending:
            return
        try:
            yield from self._sample(sequence, rows[-1])
        except NothingAllowed:
            yield self._fail(job, "The response format leaves no token to choose from that the request allows")
        except ConstraintFailed as failure:
            yield self._fail(job, f"The response format could not be followed any further: {failure}")

    def _sample(self, sequence: ChoiceSequence, logits: Logits) -> Iterator[Outcome]:
        job, choice, bound = sequence.job, sequence.choice, sequence.bound
        allowed = bound.allowed() if bound else None
        token = sequence.sampler.sample(logits, choice.tokens, bar_ends=sequence.ends_are_barred, allowed=allowed)
        yield from self._go_on(sequence, token, self._report(job, logits, token))

    def _go_on(self, sequence: ChoiceSequence, token: int, report: TokenLogprobs | None = None) -> Iterator[Outcome]:
        """Add a token that was sampled, and those that must come after it."""
        job = sequence.job
        if job.echo and not sequence.choice.tokens:
            yield Outcome(job.key, Delta(sequence.index, job.echo, [], sequence.prompt_reports))
        going_on = yield from self._append(sequence, token, sequence.bound, report)
        while going_on and (forced := sequence.forced()):
            # The grammar begins behind all of what closes a thought.
            bound = sequence.bound
            for token in forced:
                sequence.sampler.note(token)
                going_on = going_on and (yield from self._append(sequence, token, bound))

    def _append(
        self, sequence: ChoiceSequence, token: int, bound: GrammarConstraint | None, report: TokenLogprobs | None = None
    ) -> Generator[Outcome, None, bool]:
        """Add a token to the sequence, publish it, and tell whether the sequence goes on."""
        job = sequence.job
        if bound:
            bound.accept(token)
        sequence.append(token)
        deltas, reason = sequence.choice.accept(token, report, grammar_complete=bound is not None and bound.is_complete)
        yield from (Outcome(job.key, delta) for delta in deltas)
        if reason is not None:
            yield Outcome(job.key, Finished(sequence.index, reason))
            yield from self._retire(sequence)
        return reason is None

    def _retire(self, sequence: ChoiceSequence) -> Iterator[Outcome]:
        job, choice = sequence.job, sequence.choice
        job.completion_tokens += choice.tokens
        job.reasoning_tokens += choice.reasoning_tokens
        if sequence.has_slot:  # One that was complete when it came never ran.
            self.scheduler.finish(sequence)
        self._jobs[job.key].remove(sequence)
        if not self._jobs[job.key]:
            del self._jobs[job.key]
            usage = Usage(len(job.prompt), job.completion_tokens, job.cached_tokens or 0, job.reasoning_tokens)
            yield Outcome(job.key, usage)

    def _fail(self, job: Job, message: str) -> Outcome:
        self.cancel(job.key)
        return Outcome(job.key, EngineFailed(message))

    def _report(self, job: Job, logits: Logits, token: int) -> TokenLogprobs | None:
        if job.logprobs is None:
            return None
        return logprobs.token_logprobs(logits, token, job.logprobs, self._vocabulary.piece)

    def _report_prompt(self, work: Work, rows: Logits) -> None:
        """Tell of the prompt's tokens: the logits at one token are those for the next one."""
        sequence = work.sequence
        reports, prompt = sequence.prompt_reports, sequence.job.prompt
        if not reports:
            first = int(prompt[0])
            reports.append(TokenLogprobs(first, self._vocabulary.piece(first), None, []))
        for position, row in enumerate(rows, work.position):
            # What was told before the sequence was pushed back is computed for the second time.
            if position + 1 == len(reports) < len(prompt):
                report = self._report(sequence.job, row, int(prompt[position + 1]))
                assert report is not None, "only a job that wants log-probabilities tells its prompt's"
                reports.append(report)


def _chunk(work: Work) -> Chunk:
    sequence, end = work.sequence, work.position + work.length
    outputs = work.length if sequence.tells_prompt else int(work.is_last)
    return Chunk(
        sequence.sequence_id if sequence.sequence_id is not None else -1,
        work.position,
        sequence.tokens[work.position : end],
        outputs,
    )


def _with_rows(work: Sequence[Work], chunks: Sequence[Chunk], logits: Logits) -> Iterator[tuple[Work, Logits]]:
    """Each piece of work with the rows of logits that are its own."""
    first = 0
    for item, chunk in zip(work, chunks, strict=True):
        yield item, logits[first : first + chunk.outputs]
        first += chunk.outputs
