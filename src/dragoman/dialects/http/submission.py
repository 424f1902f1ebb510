"""The headers by which a request asks for the queue."""

import re
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from dragoman.core.errors import BadRequest

WEBHOOK_HEADER = "x-dragoman-webhook"

RESPOND_ASYNC = "respond-async"
"""RFC 7240, section 4.1."""

_MAX_WEBHOOK_LENGTH = 2000

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')

QueueMode = Literal["on_request", "wait", "background"]
"""Which requests a route queues. on_request: those that prefer it; wait: all, and the client waits for the answer
unless it prefers not to; background: all, and no client waits."""


class SubmissionOptions(NamedTuple):
    """How a request is queued."""

    client_waits: bool
    """Whether the client waits for the answer."""
    prefers_async: bool
    """Whether the client asked not to wait."""
    webhook: str | None
    """The URL to notify of the end."""

    @property
    def fingerprint_parts(self) -> tuple[str, ...]:
        """What distinguishes it from a request with the same body and other options."""
        return (RESPOND_ASYNC if self.prefers_async else "", self.webhook or "")


def submission_options(headers: Headers, mode: QueueMode) -> SubmissionOptions | None:
    """Return how a request to such a route is queued; None: not at all. Raises BadRequest."""
    preferred = prefers_async(headers)
    webhook = _webhook(headers)
    if mode == "on_request" and not preferred:
        if webhook is not None:
            raise BadRequest(f"{WEBHOOK_HEADER} tells of queued requests only: send Prefer: {RESPOND_ASYNC} too")
        return None
    return SubmissionOptions(
        client_waits=mode == "wait" and not preferred,
        prefers_async=preferred and mode != "background",
        webhook=webhook,
    )


def prefers_async(headers: Headers) -> bool:
    """Whether `Prefer: respond-async` is among the preferences (RFC 7240)."""
    preferences = _QUOTED.sub('""', ",".join(headers.getlist("prefer"))).split(",")
    # A preference with a value is another one, except for an empty value; unknown ones are ignored.
    return any(
        re.fullmatch(rf'{RESPOND_ASYNC}(\s*=\s*("")?)?', preference.partition(";")[0].strip().lower())
        for preference in preferences
    )


def _webhook(headers: Headers) -> str | None:
    """Return the URL of the webhook. Raises BadRequest unless it is that of a web server."""
    sent = headers.getlist(WEBHOOK_HEADER)
    if not sent:
        return None
    if len(sent) > 1 or not _is_http_url(sent[0]):
        raise BadRequest(
            f"{WEBHOOK_HEADER} must be one URL that begins with https:// or http://, "
            f"of at most {_MAX_WEBHOOK_LENGTH} characters"
        )
    return sent[0]


def _is_http_url(text: str) -> bool:
    if len(text) > _MAX_WEBHOOK_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # an invalid port or IPv6 address
        return False
