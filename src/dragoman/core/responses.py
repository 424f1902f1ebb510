"""Stored responses of the Responses API, which later requests retrieve and continue."""

from dragoman.core.errors import BadRequest, DragomanError


class ResponseNotFound(DragomanError):
    """No stored response has this id, it was removed, or it belongs to another owner."""

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Response with id '{response_id[:80]}' not found.")
        self.response_id = response_id


class PreviousResponseNotFound(BadRequest):
    """The response that a request continues is not stored, was removed, or belongs to another owner."""

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Previous response with id '{response_id[:80]}' not found.", "previous_response_id")
        self.response_id = response_id
