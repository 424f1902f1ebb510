"""Errors of the Responses API: OpenAI's, and as events of a stream."""

from collections.abc import Mapping

import msgspec

from dragoman.core.errors import DragomanError, JobNotFound
from dragoman.core.responses import PreviousResponseNotFound, ResponseNotFound
from dragoman.dialects.http.errors import ErrorRow, ErrorRule
from dragoman.dialects.http.sse import SseEvent
from dragoman.dialects.openai.errors import OpenAIErrors
from dragoman.dialects.responses import wire

_ERROR_ROWS: Mapping[type[DragomanError], ErrorRow] = {
    ResponseNotFound: ErrorRule(status=404),
    PreviousResponseNotFound: lambda error: ErrorRule(
        status=400, parameter=error.parameter, code="previous_response_not_found"
    ),
    JobNotFound: lambda error: ErrorRule(
        status=404, message=f"Response with id '{response_id(error.job_id)}' not found."
    ),
}


def response_id(job_id: str) -> str:
    """Return the id of the response that a job generates."""
    return f"resp_{job_id.removeprefix('job_')}"


class ResponsesErrors(OpenAIErrors):
    """Errors in OpenAI's envelope before the first byte, and as an `error` event after it."""

    def __init__(self) -> None:
        super().__init__(_ERROR_ROWS)

    def render_event(self, error: DragomanError) -> SseEvent:
        """Return the event without its sequence number, which the response builder knows.

        OpenAI's types have the members flat, its reader looks for `error`: the event has both.
        """
        detail = self.detail_of(error)
        event = wire.ResponseEvent(
            type="error",
            sequence_number=0,
            error=detail,
            code=detail.code,
            message=detail.message,
            param=detail.param,
        )
        return SseEvent(msgspec.json.encode(event), "error")
