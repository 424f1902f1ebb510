"""The engine's one working thread: it takes commands, makes steps, and publishes what they gave."""

import math
import queue
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dragoman.core.errors import BadRequest, EngineFailed, Overloaded
from dragoman.core.events import Event, Usage
from dragoman.engines.base import EngineStatistics
from dragoman.engines.llama.batcher import Batcher
from dragoman.engines.llama.model import ModelError
from dragoman.engines.llama.scheduler import waiting_jobs
from dragoman.engines.llama.sequence import Job, JobKey

_COMMANDS_AT_ONCE = 4096
"""Commands that may lie between two steps."""

_NEWEST_WEIGHT = 0.2
"""Of the newest interval in the mean interval between two jobs' ends."""


class Published(NamedTuple):
    """The next event of the job the caller named `key`, or why there are none."""

    key: JobKey
    event: Event | BadRequest | Overloaded | EngineFailed


class Stepper:
    """Owns a Batcher. `run` is the thread's body; every other method may be called from any thread."""

    def __init__(
        self, batcher: Batcher, *, parallel: int, max_waiting: int, publish: Callable[[list[Published]], None]
    ) -> None:
        """`publish` is called from the working thread, once a step that gave something."""
        self._batcher = batcher
        self._parallel = parallel
        self._max_waiting = max_waiting
        self._publish = publish
        self._commands: queue.Queue[Callable[[], None]] = queue.Queue(_COMMANDS_AT_ONCE)
        self._before_step: list[Published] = []
        """What commands gave since the last step."""
        self._stopping = False
        self._last_end = time.monotonic()
        self._seconds_between_ends = 0.0

    def add(self, job: Job, n: int, seed: int) -> None:
        """Take the job, or publish Overloaded or BadRequest. Blocks only while thousands of commands are unread."""
        self._commands.put(partial(self._add, job, n, seed))

    def cancel(self, key: JobKey) -> None:
        """Drop the job before the next step."""
        self._commands.put(partial(self._batcher.cancel, key))

    def load_adapter(self, path: Path, scale: float, answer: Callable[[int | ModelError], object]) -> None:
        """Load it before the next step, then call `answer` from the working thread with its number or what is wrong."""
        self._commands.put(partial(self._load_adapter, path, scale, answer))

    def unload_adapter(self, adapter: int) -> None:
        """Free it when the jobs added so far that have it are over."""
        self._commands.put(partial(self._batcher.unload_adapter, adapter))

    def ask_statistics(self, answer: Callable[[EngineStatistics], None]) -> None:
        """Call `answer` from the working thread before the next step."""
        self._commands.put(lambda: answer(self._statistics()))

    def stop(self) -> None:
        """Let `run` return after the step under way."""
        self._commands.put(self._stop)

    def run(self) -> None:
        """Step until stopped. Raises DecodeError when the model's state is lost."""
        while not self._stopping:
            for command in self._take_commands():
                command()
            outcomes = [Published(key, event) for key, event in self._batcher.step()]
            self._measure_ends(sum(isinstance(outcome.event, Usage) for outcome in outcomes))
            if published := self._before_step + outcomes:
                self._before_step = []
                self._publish(published)

    def _take_commands(self) -> Iterator[Callable[[], None]]:
        if self._batcher.idle:
            while self._commands.empty() and self._batcher.rest():
                pass
            yield self._commands.get()
        for _ in range(self._commands.qsize()):
            yield self._commands.get_nowait()

    def _add(self, job: Job, n: int, seed: int) -> None:
        try:
            self._check_room(job)
            outcomes = self._batcher.add(job, n, seed)
        except (BadRequest, Overloaded) as refusal:
            self._before_step.append(Published(job.key, refusal))
        else:
            self._before_step += [Published(key, event) for key, event in outcomes]

    def _check_room(self, job: Job) -> None:
        """Raises Overloaded when too many wait already that the job would have to wait for."""
        rivals = self._batcher.scheduler.rivals(job)
        if len(rivals) >= self._parallel and waiting_jobs(rivals) >= self._max_waiting:
            retry_after = math.ceil(self._seconds_between_ends)
            raise Overloaded(f"{self._max_waiting} requests are waiting for a slot already", retry_after)

    def _load_adapter(self, path: Path, scale: float, answer: Callable[[int | ModelError], object]) -> None:
        try:
            answer(self._batcher.load_adapter(path, scale))
        except ModelError as error:
            answer(error)

    def _statistics(self) -> EngineStatistics:
        scheduler, cache = self._batcher.scheduler, self._batcher.cache
        available = cache.available(scheduler.running)
        return EngineStatistics(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_cells_used=cache.ledger.total - available,
            kv_cells_cached=available - cache.ledger.free,
            kv_cells_total=cache.ledger.total,
        )

    def _measure_ends(self, ended: int) -> None:
        if not ended:
            return
        now = time.monotonic()
        interval = (now - self._last_end) / ended
        self._seconds_between_ends += _NEWEST_WEIGHT * (interval - self._seconds_between_ends)
        self._last_end = now

    def _stop(self) -> None:
        self._stopping = True
