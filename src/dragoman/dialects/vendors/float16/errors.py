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
from dragoman.dialects.vendors.float16 import wire

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class ModelNotInDeployment(ModelNotFound):
    """The deployment in the path serves another model than the one in the body."""

    def __init__(self, model: str, deployment: str) -> None:
        super().__init__(model)
        self.message = f"Model '{self.model}' is not served by deployment '{deployment}'"


_ERROR_ROWS: Mapping[type[DragomanError], ErrorRow] = {
    ModelNotFound: lambda error: ErrorRule(status=404, message=f"Deployment '{error.model}' not found"),
    ModelNotInDeployment: ErrorRule(status=404),
}


class Float16Errors(FastApiErrors):
    """Errors in this dialect's envelope, before and after the first byte."""

    def __init__(self) -> None:
        super().__init__(_ERROR_ROWS)

    def render_event(self, error: DragomanError) -> SseEvent:
        """Return the last event of a stream that failed; no terminator follows it."""
        rule = self._table.rule(error)
        stream_error = wire.StreamError(rule.message, "server_error", rule.status)
        return SseEvent(_encode(wire.StreamErrorBody(stream_error, rule.message)))
