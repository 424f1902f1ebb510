"""The loop of steps: schedule, decode, sample, publish. It has no thread and no socket."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from dragoman.core.errors import BadRequest, EngineFailed, Overloaded
from dragoman.core.events import Delta, Event, Finished, PromptTokens, Started, TokenLogprobs, Usage
from dragoman.core.limits import resume_past_end
from dragoman.engines.llama.arrays import Logits
from dragoman.engines.llama.batching.adapter_watch import AdapterWatch
from dragoman.engines.llama.batching.cache import ScheduledChunk
from dragoman.engines.llama.batching.host_cache import HostSegment, SegmentSaver
from dragoman.engines.llama.batching.late_masks import LateMasks
from dragoman.engines.llama.batching.prompt_reports import add_prompt_logprobs
from dragoman.engines.llama.batching.sampler import LogitsNotFinite, NoTokenAllowed, Sampler
from dragoman.engines.llama.batching.sampling_errors import sampling_error
from dragoman.engines.llama.batching.scheduler import Scheduler
from dragoman.engines.llama.batching.sequence import ChoiceSequence, EngineRequest, RequestKey
from dragoman.engines.llama.batching.speculation import MAX_DRAFT_TOKENS, agreeing_tokens
from dragoman.engines.llama.batching.whole_sequence_cache import open_cache
from dragoman.engines.llama.native.backend import NO_ADAPTER, Backend, Chunk
from dragoman.output import logprobs
from dragoman.output.constraint import ConstraintFailed, GrammarConstraint, MaskWorker
from dragoman.output.processor import DetokenizerVocabulary, OutputProcessor

_NO_WATCH, _NO_NOTE = AdapterWatch(), nullcontext()

_MIN_MASK_SECONDS = 0.01
"""How long a step waits for masks at least. It also waits as long as it has computed."""


class RequestOutput(NamedTuple):
    """The next event of the request `key`, or the error that ends it."""

    key: RequestKey
    event: Event | BadRequest | EngineFailed | Overloaded


class Batcher:
    """All requests of one model. Every method is called from the thread that owns the backend."""

    def __init__(
        self,
        backend: Backend,
        vocabulary: DetokenizerVocabulary,
        *,
        max_sequences: int,
        max_batched_tokens: int,
        host_cache_tokens: int,
        max_draft_tokens: int = MAX_DRAFT_TOKENS,
        saver: SegmentSaver | None = None,
        watch: AdapterWatch = _NO_WATCH,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`max_draft_tokens`: the most tokens that are drafted for a sequence in a step; 0 turns speculation off.

        `saver` is offered what host memory has while nothing else is to do.

        `clock` returns seconds. By the durations of steps it is decided how many drafted tokens pay.
        """
        self._backend = backend
        self._clock = clock
        self._saver = saver
        self._watch = watch
        self._vocabulary = vocabulary
        self._masks = MaskWorker()
        self.cache = open_cache(backend, host_cache_tokens)
        # A recurrent state cannot go back to the token before a rejected one.
        draft_tokens = max_draft_tokens if backend.divisible_tokens else 0
        self.scheduler = Scheduler(self.cache, max_sequences, max_batched_tokens, draft_tokens)
        self.drafted_tokens = self.accepted_draft_tokens = 0
        self._sequences: dict[RequestKey, list[ChoiceSequence]] = {}
        self._late = LateMasks()
        self._arrivals = 0
        self._adapters_to_unload: set[int] = set()
        """Adapters to unload when their last request has ended."""

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._sequences

    def add(self, request: EngineRequest, n: int, seed: int) -> list[RequestOutput]:
        """Queue `n` choices of the request, and return the output of their resume tokens.

        Raises BadRequest, and queues nothing, if the choices cannot have begun with their resume tokens.
        """
        self._arrivals += 1
        sequences = [self._sequence(request, index, seed) for index in range(n)]
        self._sequences[request.key] = list(sequences)
        if n > 1 and self.cache.needs_checkpoints and request.prompt_top is None and len(request.prompt) > 1:
            # The other choices compute its last token, whose logits they need.
            sequences[0].checkpoint = len(request.prompt) - 1
        outputs: list[RequestOutput] = []
        try:
            for sequence in sequences:
                self._replay(sequence, outputs)
        except BadRequest:
            self._sequences.pop(request.key, None)
            raise
        for sequence in self._sequences.get(request.key, ()):  # Those that have not ended already.
            self.scheduler.add(sequence)
        return outputs

    def cancel(self, key: RequestKey) -> None:
        """Drop the request if it has not ended. It gives no more output."""
        for sequence in self._sequences.pop(key, ()):
            self._late.remove(sequence)
            self.scheduler.remove(sequence)
        self._unload_unused_adapters()

    def load_adapter(self, path: Path, scale: float) -> int:
        """Load an adapter and return its number. Raises ModelError when the file does not fit the model."""
        return self._backend.load_adapter(path, scale)

    def unload_adapter(self, adapter: int) -> None:
        """Free the adapter when its last request has ended. No new request may use it."""
        self._adapters_to_unload.add(adapter)
        self._unload_unused_adapters()

    def step(self) -> list[RequestOutput]:
        """Compute what the scheduler chooses, and return the output. Raises DecodeError."""
        outputs: list[RequestOutput] = []
        for late, rows in self._late.take_ready() if self._late.kept else ():
            self._sample_scheduled(late, rows, outputs)
        scheduled = self.scheduler.schedule()
        if not scheduled:
            if self._late.kept and not outputs:
                self._late.wait(self._masks)
            self._unload_unused_adapters()
            return outputs
        started = self._clock()
        chunks: list[Chunk] = []
        constraints: list[tuple[str, GrammarConstraint]] = []
        # As few passes as possible: with many sequences, each finds them evicted from the processor's caches.
        for item in scheduled:
            chunks.append(_chunk(item))
            if item.sequence.constraint is not None and item.reaches_end:
                constraint = item.sequence.active_constraint
                if constraint is not None:
                    constraints.append((item.sequence.owner, constraint))
        if constraints:
            self._masks.begin(constraints)
        adapter = scheduled[0].sequence.adapter
        with _NO_NOTE if adapter == NO_ADAPTER else self._watch.computing(adapter):
            logits = self._backend.decode(chunks, adapter)
        if constraints:
            self._masks.wait(max(_MIN_MASK_SECONDS, self._clock() - started))
        self.scheduler.note_duration(sum(len(chunk.tokens) for chunk in chunks), self._clock() - started)
        first = 0
        for item, chunk in zip(scheduled, chunks, strict=True):
            rows, first = logits[first : first + chunk.outputs], first + chunk.outputs
            if item.sequence.request.key in self._sequences:  # Otherwise another choice of the request has just failed.
                self._process_logits(item, rows, outputs)
        self._unload_unused_adapters()
        return outputs

    def use_idle_time(self) -> bool:
        """Do one piece of optional work while nothing else is to do. False if there is none."""
        return self.cache.offload_one() or (self._saver is not None and self.cache.host_cache.offer_to(self._saver))

    def restore_segments(self, segments: Iterable[HostSegment]) -> None:
        """Put what was saved back into host memory, for the requests after it."""
        for segment in segments:
            self.cache.host_cache.insert(segment)

    def _unload_unused_adapters(self) -> None:
        used = {sequences[0].adapter for sequences in self._sequences.values()} if self._adapters_to_unload else set()
        for adapter in self._adapters_to_unload - used:
            self._adapters_to_unload.remove(adapter)
            self.cache.forget_adapter(adapter)
            self._backend.unload_adapter(adapter)
            self._watch.unloaded(adapter)

    def _sequence(self, request: EngineRequest, index: int, seed: int) -> ChoiceSequence:
        sampling, output_format, end_token_ids = request.sampling, request.output_format, self._vocabulary.end_token_ids
        sampler = Sampler(
            sampling,
            seed=seed,
            choice=index,
            prompt=request.prompt[request.prompt >= 0] if request.images else request.prompt,
            end_token_ids=end_token_ids,
            vocabulary_size=self._backend.vocabulary_size,
            bad_words=request.bad_words,
        )
        output_processor = OutputProcessor(
            self._vocabulary,
            sampling,
            request.max_tokens,
            index=index,
            parser=output_format.new_parser(),
            markup=output_format.markup_token_ids,
        )
        return ChoiceSequence(request, index, self._arrivals, sampler, output_processor)

    def _replay(self, sequence: ChoiceSequence, outputs: list[RequestOutput]) -> None:
        """Publish the tokens of an earlier attempt as if they had just been sampled. Raises BadRequest."""
        if not sequence.resume_token_ids:
            return
        first = sequence.resume_token_ids[0]
        sequence.sampler.record(first)
        try:
            self._advance(sequence, first, outputs)
        except ConstraintFailed as failure:
            reason = (
                f"resume_token_ids holds tokens of choice {sequence.index} that its grammar does not allow: {failure}"
            )
            raise BadRequest(reason, "resume_token_ids") from failure
        if sequence.generated < len(sequence.resume_token_ids):
            raise resume_past_end(sequence.index, len(sequence.resume_token_ids), sequence.generated)

    def _process_logits(self, scheduled: ScheduledChunk, rows: Logits, outputs: list[RequestOutput]) -> None:
        """Use the logits of one chunk: report its prompt's log-probabilities, or sample the next token."""
        sequence = scheduled.sequence
        request = sequence.request
        sequence.computed += scheduled.length
        if sequence.checkpoint == sequence.computed:
            self.cache.keep_checkpoint(sequence)
        if sequence.needs_prompt_logprobs:
            add_prompt_logprobs(scheduled, rows, self._vocabulary.piece)
        if sequence.pending:
            return
        if not request.max_tokens:
            self._end_without_answer(sequence, outputs)
            return
        rows = rows[-1 - len(scheduled.draft) :]
        constraint = sequence.active_constraint
        if constraint is None or constraint.is_ready:
            self._sample_scheduled(scheduled, rows, outputs)
        else:
            self._sample_later(scheduled, rows[:1], constraint)

    def _sample_later(self, scheduled: ScheduledChunk, row: Logits, constraint: GrammarConstraint) -> None:
        """Leave a sequence out of the steps until its mask has come."""
        self._masks.begin([(scheduled.sequence.owner, constraint)])
        self._late.add(scheduled, row, constraint)
        self.cache.drop_rejected(scheduled.sequence)

    def _sample_scheduled(self, scheduled: ScheduledChunk, rows: Logits, outputs: list[RequestOutput]) -> None:
        """Sample from the logits after a chunk and after each of its drafted tokens."""
        request = scheduled.sequence.request
        try:
            if scheduled.draft:
                self._sample_with_draft(scheduled, rows, outputs)
            else:
                self._sample(scheduled.sequence, rows[0], outputs)
        except (NoTokenAllowed, LogitsNotFinite, ConstraintFailed) as failure:
            outputs.append(self._fail(request, sampling_error(request, failure)))

    def _sample_with_draft(self, scheduled: ScheduledChunk, rows: Logits, outputs: list[RequestOutput]) -> None:
        """Sample the next token and, as long as the sequence goes on like its draft, those after it.

        Each is sampled as it would be without a draft, from the logits after the same tokens.
        """
        sequence, draft, start = scheduled.sequence, scheduled.draft, scheduled.sequence.length
        accepted, continues = 0, True
        while continues and sequence.pending == 0:
            constraint = sequence.active_constraint
            if accepted and constraint is not None and constraint.is_slow:
                self._sample_later(scheduled, rows[accepted : accepted + 1], constraint)
                break
            continues = self._sample(sequence, rows[accepted], outputs)
            appended = sequence.tokens[start + accepted :].tolist() if continues else []
            agreeing = agreeing_tokens(appended, draft[accepted:])
            accepted += agreeing
            sequence.computed += agreeing
        self.drafted_tokens += len(draft)
        self.accepted_draft_tokens += accepted
        if continues:
            self.cache.drop_rejected(sequence)

    def _sample(self, sequence: ChoiceSequence, logits: Logits, outputs: list[RequestOutput]) -> bool:
        """Sample a token, add it and those that are forced after it, and return whether the sequence continues."""
        request, output_processor, constraint = sequence.request, sequence.output_processor, sequence.active_constraint
        allowed = constraint.allowed() if constraint else None
        token = sequence.sampler.sample(
            logits, output_processor.tokens, bar_ends=sequence.ends_are_barred, allowed=allowed
        )
        return self._advance(sequence, token, outputs, self._token_logprobs(request, logits, token))

    def _advance(
        self,
        sequence: ChoiceSequence,
        token: int,
        outputs: list[RequestOutput],
        token_logprobs: TokenLogprobs | None = None,
    ) -> bool:
        """Add a sampled token and the tokens that are forced after it, and return whether the sequence continues."""
        if not sequence.output_processor.tokens:
            outputs += _opening_output(sequence)
        sequence.observe(token)
        continues = self._append(sequence, token, sequence.active_constraint, outputs, token_logprobs)
        while continues and (forced := sequence.forced()):
            # The grammar begins after the last token that ends the reasoning.
            constraint = sequence.active_constraint
            for token in forced:
                sequence.sampler.record(token)
                continues = continues and self._append(sequence, token, constraint, outputs)
        return continues

    def _end_without_answer(self, sequence: ChoiceSequence, outputs: list[RequestOutput]) -> None:
        """End a choice of which only the prompt is wanted."""
        outputs += _opening_output(sequence)
        outputs.append(RequestOutput(sequence.request.key, Finished(sequence.index, "length")))
        self._finish(sequence, outputs)

    def _append(
        self,
        sequence: ChoiceSequence,
        token: int,
        constraint: GrammarConstraint | None,
        outputs: list[RequestOutput],
        token_logprobs: TokenLogprobs | None = None,
    ) -> bool:
        """Add a token to the sequence, publish it, and return whether the sequence continues."""
        request = sequence.request
        if constraint:
            constraint.accept(token)
        sequence.append(token)
        output_processor = sequence.output_processor
        deltas, reason = output_processor.accept(
            token, token_logprobs, grammar_complete=constraint is not None and constraint.is_complete
        )
        outputs += [RequestOutput(request.key, delta) for delta in deltas]
        if reason is not None:
            outputs.append(RequestOutput(request.key, Finished(sequence.index, reason, output_processor.stop_reason)))
            self._finish(sequence, outputs)
        return reason is None

    def _finish(self, sequence: ChoiceSequence, outputs: list[RequestOutput]) -> None:
        request, output_processor = sequence.request, sequence.output_processor
        request.completion_tokens += output_processor.tokens
        request.reasoning_tokens += output_processor.reasoning_tokens
        if sequence.has_slot:  # A choice whose resume tokens were complete never ran.
            self.scheduler.finish(sequence)
        self._sequences[request.key].remove(sequence)
        if not self._sequences[request.key]:
            del self._sequences[request.key]
            usage = Usage(
                len(request.prompt), request.completion_tokens, request.cached_tokens or 0, request.reasoning_tokens
            )
            outputs.append(RequestOutput(request.key, usage))

    def _fail(self, request: EngineRequest, error: BadRequest | EngineFailed) -> RequestOutput:
        self.cancel(request.key)
        return RequestOutput(request.key, error)

    def _token_logprobs(self, request: EngineRequest, logits: Logits, token: int) -> TokenLogprobs | None:
        if request.logprobs is None:
            return None
        return logprobs.token_logprobs(logits, token, request.logprobs, self._vocabulary.piece)


def _opening_output(sequence: ChoiceSequence) -> Iterator[RequestOutput]:
    """Return the beginning of a request, and the prompt before a choice: its tokens, its text, or both."""
    request, reported = sequence.request, sequence.prompt_logprobs
    if not request.has_started:
        request.has_started = True
        yield RequestOutput(request.key, Started(len(request.prompt), request.cached_tokens or 0))
    if request.reports_prompt:
        tokens = PromptTokens(sequence.index, request.prompt.tolist(), _with_top(reported, request.prompt_logprobs))
        yield RequestOutput(request.key, tokens)
    if request.echo:
        delta = Delta(sequence.index, request.echo, [], _with_top(reported, request.logprobs))
        yield RequestOutput(request.key, delta)


def _with_top(reported: list[TokenLogprobs], top: int | None) -> list[TokenLogprobs]:
    """Return the log-probabilities with so many of the likeliest tokens; None: no log-probabilities."""
    if top is None:
        return []
    return [
        msgspec.structs.replace(entry, top=entry.top[:top]) if len(entry.top) > top else entry for entry in reported
    ]


def _chunk(scheduled: ScheduledChunk) -> Chunk:
    sequence, position, length, draft = scheduled
    image = sequence.request.image_at(position)
    # With an adapter always one: if the cells have values that are no numbers, this step has to show it.
    needed = position + length == sequence.length or (sequence.adapter != NO_ADAPTER and image is None)
    outputs = length if sequence.needs_prompt_logprobs else int(needed) + len(draft)
    tokens = sequence.tokens_between(position, position + length)
    if draft:
        tokens = np.concatenate((tokens, np.array(draft, dtype=np.int32)))
    sequence_id = -1 if sequence.sequence_id is None else sequence.sequence_id
    return Chunk(sequence_id, sequence.request.position_of(position), tokens, outputs, image)
