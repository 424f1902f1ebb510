"""The response to a request whose body and answer are kept."""

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from dragoman.core.bodies import MAX_BODY_BYTES, BodyStore, KeptBody


class KeptResponse(Response):
    """Sends another response, and keeps what it sends together with the request's body."""

    def __init__(self, response: Response, store: BodyStore, request_id: str, body: bytes) -> None:
        super().__init__()
        self._response = response
        self._store = store
        self._request_id = request_id
        self._body = body
        self._answer = bytearray()
        self._is_cut = len(body) > MAX_BODY_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.body":
                self._note(message.get("body", b""))
            await send(message)

        try:
            await self._response(scope, receive, send_and_note)
        finally:
            self._store.keep(
                KeptBody(
                    request_id=self._request_id,
                    request=self._body[:MAX_BODY_BYTES],
                    answer=bytes(self._answer),
                    is_cut=self._is_cut,
                )
            )

    def _note(self, part: bytes) -> None:
        room = MAX_BODY_BYTES - len(self._answer)
        self._is_cut |= len(part) > room
        self._answer += part[:room]
