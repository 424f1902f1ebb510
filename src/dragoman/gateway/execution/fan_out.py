"""Several prompts, run concurrently as one request."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

import msgspec

from dragoman.core.events import Event, Usage
from dragoman.core.request import GenerationRequest
from dragoman.engines.base import Engine

_MAX_BUFFERED_EVENTS = 64
"""Events of several prompts that are buffered between the engines and a slow client."""


def fan_out(engine: Engine, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Event]:
    """Merge the events of all requests into those of one: choices renumbered, usages added."""
    return engine.generate(requests[0]) if len(requests) == 1 else _fan_out_concurrently(engine, requests)


async def _fan_out_concurrently(engine: Engine, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Event]:
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue(_MAX_BUFFERED_EVENTS)
    usages: list[Usage] = []
    running = len(requests)

    async def pump(first_index: int, request: GenerationRequest) -> None:
        try:
            async with contextlib.aclosing(engine.generate(request)) as events:
                async for event in events:
                    await queue.put(_with_index_offset(event, first_index))
            await queue.put(None)
        except Exception as error:  # noqa: BLE001 - raised again below, in the task of the request
            await queue.put(error)

    tasks = [asyncio.create_task(pump(number * request.n, request)) for number, request in enumerate(requests)]
    try:
        while running:
            match await queue.get():
                case None:
                    running -= 1
                case Exception() as error:
                    raise error
                case Usage() as usage:
                    usages.append(usage)
                case event:
                    yield event
        if len(usages) == len(requests):
            yield Usage(
                sum(usage.prompt_tokens for usage in usages),
                sum(usage.completion_tokens for usage in usages),
                sum(usage.cached_tokens for usage in usages),
                sum(usage.reasoning_tokens for usage in usages),
            )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _with_index_offset(event: Event, first_index: int) -> Event:
    match event:
        case Usage():
            return event
        case _:
            return msgspec.structs.replace(event, index=first_index + event.index)
