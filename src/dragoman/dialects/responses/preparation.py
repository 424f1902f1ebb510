"""What happens between decoding a request and its admission, and between the engine's events and the client."""

import time
from collections.abc import AsyncIterator

import msgspec
import structlog

from dragoman.core.answered_by import AnsweredBy
from dragoman.core.context import Caller
from dragoman.core.events import Event, Usage
from dragoman.core.rate_limits import Allowances
from dragoman.core.request import ChatPrompt
from dragoman.core.responses import PreviousResponseNotFound
from dragoman.core.services import EventStream, QueueService, VisibleModels
from dragoman.core.tasks import Task
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.http.generation import PreparedRequests
from dragoman.dialects.http.truncation import ContextWindowFitter
from dragoman.dialects.responses.codec import DecodedResponse, PromptParts
from dragoman.dialects.responses.truncation import UnitTruncationPlan

SKIPPED_HEADER = "x-dragoman-skipped"
"""Names the kinds of tools and items that were ignored."""

_MAX_REPORTED_LENGTH = 500

_log = structlog.get_logger(__name__)


class TimedEvents:
    """Implements core.services.EventStream: notes when the answer is complete."""

    def __init__(self, events: EventStream, decoded: DecodedResponse) -> None:
        self._events = events
        self._decoded = decoded

    @property
    def allowances(self) -> Allowances:
        return self._events.allowances

    @property
    def answered_by(self) -> AnsweredBy | None:
        return self._events.answered_by

    async def __aiter__(self) -> AsyncIterator[Event]:
        async for event in self._events:
            if isinstance(event, Usage):
                self._decoded.response.completed_at = int(time.time())
            yield event

    async def aclose(self) -> None:
        await self._events.aclose()


class Preparation:
    """Prepares the requests of one dialect's routes."""

    def __init__(self, service: QueueService) -> None:
        self._service = service

    async def prepare(self, decoded: DecodedRequest, caller: Caller) -> PreparedRequests:
        """Add the earlier turns, and drop the oldest if the request allows it. Raises core.errors."""
        assert isinstance(decoded, DecodedResponse), "the route's codec decodes nothing else"
        prompt, skipped = await self.prompt(decoded.parts, caller)
        [request] = decoded.requests
        task: Task = msgspec.structs.replace(request, prompt=prompt)
        if decoded.sent.truncation == "auto":
            task = await self._shortened(task, caller)
        headers = _skipped_headers(skipped, caller.request_id)
        return PreparedRequests([task], headers, lambda events: TimedEvents(events, decoded))

    async def prompt(self, parts: PromptParts, _caller: Caller) -> tuple[ChatPrompt, list[str]]:
        """Return the prompt with all earlier turns, and the kinds of the items that were skipped."""
        if parts.sent.previous_response_id is not None:
            raise PreviousResponseNotFound(parts.sent.previous_response_id)
        return parts.prompt()

    async def _shortened(self, request: Task, caller: Caller) -> Task:
        models: VisibleModels = self._service
        if self._service.find_model(request.model) is None:
            models = await self._service.visible_to(caller)  # It may be an adapter of the caller's own.
        fitted = await ContextWindowFitter(models, UnitTruncationPlan).fit([request])
        return fitted.requests[0]


def _skipped_headers(skipped: list[str], request_id: str) -> dict[str, str]:
    if not skipped:
        return {}
    kinds = ", ".join(dict.fromkeys(skipped))[:_MAX_REPORTED_LENGTH]
    _log.warning("items_skipped", request_id=request_id, kinds=kinds)
    return {SKIPPED_HEADER: kinds.encode("ascii", "replace").decode()}
