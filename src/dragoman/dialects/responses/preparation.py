"""What happens between decoding a request and its admission, and between the engine's events and the client."""

import time
from collections.abc import AsyncIterator

import msgspec

from dragoman.core import logs
from dragoman.core.context import Caller
from dragoman.core.errors import Overloaded
from dragoman.core.events import Event, Usage
from dragoman.core.request import ChatPrompt
from dragoman.core.services import EventStream, QueueService, VisibleModels
from dragoman.core.tasks import Task
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.http.generation import PreparedRequests
from dragoman.dialects.http.truncation import ContextWindowFitter
from dragoman.dialects.responses.codec import DecodedResponse, PromptParts
from dragoman.dialects.responses.stored import StoredResponses, record_of
from dragoman.dialects.responses.truncation import UnitTruncationPlan
from dragoman.dialects.responses.watched_events import WatchedEvents

SKIPPED_HEADER = "x-dragoman-skipped"
"""Names the kinds of tools and items that were ignored."""

_MAX_REPORTED_LENGTH = 500

_log = logs.get_logger(__name__)


class StoredEvents(WatchedEvents):
    """Implements core.services.EventStream: stores the response when it is complete, before its client knows that."""

    def __init__(self, events: EventStream, decoded: DecodedResponse, stored: StoredResponses, caller: Caller) -> None:
        super().__init__(events)
        self._decoded = decoded
        self._stored = stored
        self._caller = caller

    async def __aiter__(self) -> AsyncIterator[Event]:
        async for event in self._events:
            if isinstance(event, Usage):
                self._decoded.response.completed_at = int(time.time())
                await self._save(event)
            yield event

    async def _save(self, usage: Usage) -> None:
        builder = self._decoded.response
        if builder.head.store:
            try:
                await self._stored.save(record_of(self._decoded, builder.finish(usage)), self._caller)
            except Overloaded as error:
                # The client has waited for the response, not for its storage.
                _log.warning("response_not_stored", response_id=builder.head.id, error=error.message)


class Preparation:
    """Prepares the requests of one dialect's routes."""

    def __init__(self, service: QueueService, stored: StoredResponses) -> None:
        self._service = service
        self._stored = stored

    async def prepare(self, decoded: DecodedRequest, caller: Caller) -> PreparedRequests:
        """Add the earlier turns, and drop the oldest if the request allows it. Raises core.errors."""
        assert isinstance(decoded, DecodedResponse), "the route's codec decodes nothing else"
        [request] = decoded.requests
        task: Task = request
        skipped = decoded.skipped
        if decoded.needs_stored_items:
            prompt, skipped = await self.prompt(decoded.parts, caller)
            task = msgspec.structs.replace(request, prompt=prompt)
        if decoded.sent.truncation == "auto":
            task = await self._shortened(task, caller)
        headers = _skipped_headers(skipped, caller.request_id)
        return PreparedRequests([task], headers, lambda events: StoredEvents(events, decoded, self._stored, caller))

    async def prompt(self, parts: PromptParts, caller: Caller) -> tuple[ChatPrompt, list[str]]:
        """Return the prompt with all earlier turns, and the kinds of the items that were skipped."""
        previous = parts.sent.previous_response_id
        history = [] if previous is None else await self._stored.history(previous, caller)
        return parts.with_items(await self._stored.resolved(parts.items, caller)).prompt(history)

    async def _shortened(self, request: Task, caller: Caller) -> Task:
        models: VisibleModels = self._service
        if self._service.find_model(request.model) is None:
            models = await self._service.visible_to(caller)  # It may be an adapter of the caller's own.
        requests = await self._service.with_images([request], caller)
        fitted = await ContextWindowFitter(models, UnitTruncationPlan).fit(requests)
        return fitted.requests[0]


def _skipped_headers(skipped: list[str], request_id: str) -> dict[str, str]:
    if not skipped:
        return {}
    kinds = ", ".join(dict.fromkeys(skipped))[:_MAX_REPORTED_LENGTH]
    _log.warning("items_skipped", request_id=request_id, kinds=kinds)
    return {SKIPPED_HEADER: kinds.encode("ascii", "replace").decode()}
