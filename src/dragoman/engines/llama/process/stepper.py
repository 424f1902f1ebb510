"""The stepper: the engine's one working thread takes commands, steps the model and publishes the output."""

import contextlib
import math
import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from dragoman.core.errors import BadRequest, Overloaded
from dragoman.core.events import Usage
from dragoman.engines.base import EngineStatistics
from dragoman.engines.llama.batching.batcher import Batcher, RequestOutput
from dragoman.engines.llama.batching.host_cache import HostSegment
from dragoman.engines.llama.batching.sequence import ChoiceSequence, EngineRequest, RequestKey
from dragoman.engines.llama.native.model import ModelError
from dragoman.engines.llama.native.resident_memory import resident_bytes
from dragoman.engines.llama.process.displacement import displaceable
from dragoman.engines.llama.saved.prefix_budget import SavedPrefixStatistics

MAX_QUEUED_COMMANDS = 4096
"""The most commands that may wait for the next step."""

_SMOOTHING_FACTOR = 0.2
"""The weight of the newest interval in the mean interval between the ends of two requests."""


class StepBatcher(Protocol):
    """What the thread needs of a batcher."""

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""
        ...

    def step(self) -> list[RequestOutput]:
        """Compute one batch, and return the output. Raises DecodeError."""
        ...

    def cancel(self, key: RequestKey) -> None:
        """Drop the request if it has not ended. It gives no more output."""
        ...

    def use_idle_time(self) -> bool:
        """Do one piece of optional work while nothing else is to do. False if there is none."""
        ...


class CommandThread(ABC):
    """Owns a batcher. `run` is the thread's body; every other method may be called from any thread."""

    def __init__(self, batcher: StepBatcher, *, publish: Callable[[list[RequestOutput]], None]) -> None:
        """`publish` is called from the working thread, once for each step with output."""
        self._steps = batcher
        self._publish = publish
        self._commands: queue.Queue[Callable[[], None]] = queue.Queue(MAX_QUEUED_COMMANDS)
        self._pending_outputs: list[RequestOutput] = []
        """The output of commands since the last step."""
        self._stopping = False
        self._has_ended = False
        """Whether `run` has ended, so that nothing reads the queue of commands any more."""
        self._busy_since: float | None = None
        """When the current step began. None: there is nothing to do."""
        self._last_completion = time.monotonic()
        self._mean_completion_interval = 0.0

    def cancel(self, key: RequestKey) -> None:
        """Drop the request before the next step."""
        self._put(partial(self._steps.cancel, key))

    def request_statistics(self, on_result: Callable[[EngineStatistics], None]) -> None:
        """Call `on_result` from the working thread before the next step."""
        self._put(lambda: on_result(msgspec.structs.replace(self._statistics(), resident_bytes=resident_bytes())))

    def stop(self) -> None:
        """Let `run` return after the current step."""
        self._put(self._stop)

    @property
    def busy_seconds(self) -> float:
        """The time that the current step has taken so far, with the commands before it."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def run(self) -> None:
        """Step until stopped. Raises DecodeError when the model's state is lost."""
        try:
            while not self._stopping:
                self._busy_since = time.monotonic()
                for command in self._take_commands():
                    command()
                self._step()
        finally:
            self._drop_commands()

    def _step(self) -> None:
        outputs = self._steps.step()
        self._measure_completions(sum(isinstance(output.event, Usage) for output in outputs))
        if published := self._pending_outputs + outputs:
            self._pending_outputs = []
            self._publish(published)

    def _put(self, command: Callable[[], None]) -> None:
        """Queue the command; once `run` has ended, drop it."""
        if not self._has_ended:
            self._commands.put(command)

    def _drop_commands(self) -> None:
        """Empty the queue, so that no thread waits for room in it."""
        self._has_ended = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._commands.get_nowait()

    def _take_commands(self) -> Iterator[Callable[[], None]]:
        if self._steps.is_idle:
            while self._commands.empty() and self._steps.use_idle_time():
                pass
            self._busy_since = None
            command = self._commands.get()
            self._busy_since = time.monotonic()
            yield command
        for _ in range(self._commands.qsize()):
            yield self._commands.get_nowait()

    def _measure_completions(self, completed: int) -> None:
        if not completed:
            return
        now = time.monotonic()
        interval = (now - self._last_completion) / completed
        self._mean_completion_interval += _SMOOTHING_FACTOR * (interval - self._mean_completion_interval)
        self._last_completion = now

    def _stop(self) -> None:
        self._stopping = True

    @abstractmethod
    def _statistics(self) -> EngineStatistics:
        """Return the current load."""

    def _overloaded(self, waiting: int) -> Overloaded:
        """Make the error about a request that so many others keep waiting."""
        retry_after = math.ceil(self._mean_completion_interval)
        return Overloaded(f"{waiting} requests are waiting for a slot already", retry_after)


class Stepper(CommandThread):
    """Owns a Batcher."""

    def __init__(
        self,
        batcher: Batcher,
        *,
        max_sequences: int,
        max_waiting: int,
        publish: Callable[[list[RequestOutput]], None],
        saved_statistics: Callable[[], SavedPrefixStatistics] = SavedPrefixStatistics,
    ) -> None:
        """`publish` is called from the working thread, once for each step with output."""
        super().__init__(batcher, publish=publish)
        self._saved_statistics = saved_statistics
        self._batcher = batcher
        self._max_sequences = max_sequences
        self._max_waiting = max_waiting

    def add(self, request: EngineRequest, n: int, seed: int) -> None:
        """Queue the request, or publish Overloaded or BadRequest. Blocks only while thousands of commands wait."""
        self._put(partial(self._add, request, n, seed))

    def load_adapter(
        self,
        path: Path,
        scale: float,
        on_result: Callable[[int | ModelError], object],
        computing: AbstractContextManager[None],
    ) -> None:
        """Load an adapter before the next step, within `computing`.

        `on_result` is called from the working thread with the number of the adapter, or the error.
        """

        def load() -> None:
            try:
                with computing:
                    number = self._batcher.load_adapter(path, scale)
            except ModelError as error:
                on_result(error)
            else:
                on_result(number)

        self._put(load)

    def unload_adapter(self, adapter: int) -> None:
        """Free an adapter when the requests for it that were added so far have ended."""
        self._put(partial(self._batcher.unload_adapter, adapter))

    def restore_segments(self, segments: Sequence[HostSegment]) -> None:
        """Put segments into host memory before the next step, for the requests added after it."""
        self._put(partial(self._batcher.restore_segments, segments))

    def wake(self) -> None:
        """Let the thread look for optional work again."""
        self._put(lambda: None)

    def _add(self, request: EngineRequest, n: int, seed: int) -> None:
        try:
            self._check_queue_limit(request)
            outputs = self._batcher.add(request, n, seed)
        except (BadRequest, Overloaded) as error:
            self._pending_outputs.append(RequestOutput(request.key, error))
        else:
            self._pending_outputs += outputs

    def _check_queue_limit(self, request: EngineRequest) -> None:
        """Raise Overloaded if too many requests wait that would go before this one.

        If another owner has more of them waiting, its youngest is refused instead.
        """
        competitors = self._batcher.scheduler.competitors_of(request)
        if len(competitors) < self._max_sequences:
            return
        waiting = waiting_requests(competitors)
        if len(waiting) < self._max_waiting:
            return
        error = self._overloaded(self._max_waiting)
        displaced = request_to_displace(waiting, request)
        if displaced is None:
            raise error
        self._batcher.cancel(displaced.key)
        self._pending_outputs.append(RequestOutput(displaced.key, error))

    def _statistics(self) -> EngineStatistics:
        scheduler, cache = self._batcher.scheduler, self._batcher.cache
        available = cache.available(scheduler.running)
        saved = self._saved_statistics()
        return EngineStatistics(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_cells_used=cache.allocator.total - available,
            kv_cells_cached=available - cache.allocator.free,
            kv_cells_total=cache.allocator.total,
            drafted_tokens=self._batcher.drafted_tokens,
            accepted_draft_tokens=self._batcher.accepted_draft_tokens,
            saved_prefix_hits=saved.hits,
            saved_prefix_tokens=saved.tokens,
            saved_prefix_evictions=saved.evictions,
            saved_prefix_bytes=saved.bytes,
        )


def waiting_requests(sequences: Iterable[ChoiceSequence]) -> list[list[ChoiceSequence]]:
    """Return the choices of each request of which no choice has a slot."""
    by_request: dict[RequestKey, list[ChoiceSequence]] = {}
    for sequence in sequences:
        by_request.setdefault(sequence.request.key, []).append(sequence)
    return [choices for choices in by_request.values() if not any(choice.has_slot for choice in choices)]


def request_to_displace(waiting: Sequence[list[ChoiceSequence]], request: EngineRequest) -> EngineRequest | None:
    """Return the waiting request that has to leave its place to another. None if no owner has two more than its owner.

    It is the youngest one of the owner with the most, of those that have given no output. Queued requests displace
    queued ones only.
    """
    equals = [choices[0] for choices in waiting if choices[0].is_queued == request.is_queued]
    begun = {choice.request.key for choices in waiting for choice in choices if choice.generated}
    candidates = [first for first in displaceable(equals, request.owner) if first.request.key not in begun]
    return max(candidates, key=lambda first: first.arrival).request if candidates else None
