"""The playground: a page over the ordinary API."""

from typing import Any

import msgspec
from starlette.responses import Response

from dragoman.server.console.page import PageError, PageRequest

_PATHS = {
    "infermatic": "/chat/completions",
    "openai": "/openai/v1/chat/completions",
    "arcee": "/api/v1/chat/completions",
    "empower": "/empower/api/v1/chat/completions",
    "float16": "/{model}/v1/chat/completions",
    "scale": "/v4/chat-completions",
}


def chat_paths(v1_dialect: str) -> dict[str, str]:
    """Return the path of chats of each dialect. The first one is that of `/v1`."""
    return {v1_dialect: "/v1/chat/completions", **{name: _PATHS[name] for name in _PATHS if name != v1_dialect}}


async def show(page: PageRequest) -> Response:
    """Show the page. Its script sends requests to the API with the session's key."""
    viewer = page.viewer
    models = [model for model in await page.visible_models() if model.kind == "generation"]
    paths = chat_paths(page.services.http.v1_dialect)
    config: dict[str, Any] = {
        "api": page.renderer.url("/api"),
        "requests": page.renderer.url("/requests"),
        "public": page.services.http.root_path,
        "paths": paths,
        "needs_key": page.services.gateway.needs_key,
        "models": [
            {"id": model.id, "context": model.context_length, "reasons": model.supports_reasoning} for model in models
        ],
    }
    return page.render(
        "playground.html",
        config=msgspec.json.encode(config).decode(),
        models=models,
        dialects=list(paths),
        lacks_key=page.services.gateway.needs_key and viewer.api_key is None,
        records=page.services.thread is not None,
    )


async def use_key(page: PageRequest) -> Response:
    """Let the playground of this session send an API key."""
    fields = await page.fields()
    thread, sessions = page.services.thread, page.sessions
    if thread is None or sessions is None or page.viewer.session is None:
        raise PageError(400, "The playground needs no key", "This server accepts requests without one.")
    await thread.run(sessions.use_api_key, page.secret, fields.text("key"))
    return page.redirect("/playground")
