"""Several prompts as one request: they are answered side by side."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import get_args

import msgspec

from dragoman.core.events import Event, Started, Usage, UsageSource
from dragoman.core.request import GenerationRequest
from dragoman.core.tasks import Task

_LEAST_EXACT_LAST = get_args(UsageSource)

_MAX_BUFFERED_EVENTS = 64
"""Events of several prompts that are buffered between the engines and a slow client."""


async def fan_out(
    requests: Sequence[Task],
    answer: Callable[[Task], AsyncGenerator[Event]],
    note_start: Callable[[Started], None] | None = None,
) -> AsyncGenerator[Event]:
    """Merge the events of all answers into those of one: choices renumbered, usages added.

    `note_start` is called when a prompt begins to be answered, which no event says: they begin at different times.
    """
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue(_MAX_BUFFERED_EVENTS)
    usages: list[Usage] = []
    running = len(requests)

    async def pump(first_index: int, request: Task) -> None:
        try:
            async with contextlib.aclosing(answer(request)) as events:
                async for event in events:
                    await queue.put(_with_index_offset(event, first_index))
            await queue.put(None)
        except Exception as error:  # noqa: BLE001 - raised again below, in the task of the request
            await queue.put(error)

    tasks = [asyncio.create_task(pump(number * _choices(request), request)) for number, request in enumerate(requests)]
    try:
        while running:
            match await queue.get():
                case None:
                    running -= 1
                case Exception() as error:
                    raise error
                case Usage() as usage:
                    usages.append(usage)
                case Started() as started:
                    if note_start is not None:
                        note_start(started)
                case event:
                    yield event
        if len(usages) == len(requests):
            yield Usage(
                sum(usage.prompt_tokens for usage in usages),
                sum(usage.completion_tokens for usage in usages),
                sum(usage.cached_tokens for usage in usages),
                sum(usage.reasoning_tokens for usage in usages),
                max((usage.source for usage in usages), key=_LEAST_EXACT_LAST.index),
            )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _choices(request: Task) -> int:
    return request.n if isinstance(request, GenerationRequest) else len(request.inputs)


def _with_index_offset(event: Event, first_index: int) -> Event:
    if isinstance(event, Started | Usage):
        return event
    return msgspec.structs.replace(event, index=first_index + event.index)
