"""Live data for open pages."""

from starlette.responses import Response, StreamingResponse

from dragoman.server.console.page import PageRequest


async def stream(page: PageRequest) -> Response:
    """Stream what is new, once a second, behind the request that the page has already."""
    last = page.request.headers.get("last-event-id") or page.request.query_params.get("after", "")
    last_id = int(last) if last.isascii() and last.isdecimal() and len(last) < 19 else None

    async def is_valid() -> bool:
        thread, sessions = page.services.thread, page.sessions
        if page.viewer.session is None or thread is None or sessions is None:
            return True
        return await thread.run(sessions.find, page.secret) is not None

    if page.broadcast.is_full(page.viewer):
        return Response("Too many pages with live data are open already", 503, {"retry-after": "10"})
    return StreamingResponse(page.broadcast.events(page.viewer, last_id, is_valid), media_type="text/event-stream")
