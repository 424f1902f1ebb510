"""Errors as this dialect reports them, in FastAPI's envelope."""

from collections.abc import Callable, Mapping

import msgspec

from dragoman.core.errors import (
    DragomanError,
    ModelNotFound,
)
from dragoman.dialects.http.errors import ErrorRow, ErrorRule
from dragoman.dialects.http.fastapi_errors import FastApiErrors
from dragoman.dialects.http.sse import SseEvent
from dragoman.dialects.http.validation import (
    MalformedJson,
)

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


_ERROR_ROWS: Mapping[type[DragomanError], ErrorRow] = {
    MalformedJson: ErrorRule(status=400, message="Request body is not valid JSON"),
    DragomanError: ErrorRule(status=500, message="An internal server error occurred"),
}


class ScaleErrors(FastApiErrors):
    """Errors in this dialect's envelope, before and after the first byte."""

    def __init__(self, *, noun: str = "Model deployment") -> None:
        """`noun` is the kind of object that was not found."""
        super().__init__(
            {
                **_ERROR_ROWS,
                ModelNotFound: lambda error: ErrorRule(status=404, message=f"{noun} '{error.model}' not found"),
            }
        )

    def render_event(self, error: DragomanError) -> SseEvent:
        """Return the last event of a stream that failed. Clients raise on its name."""
        return SseEvent(self.render(error).body, "error")
