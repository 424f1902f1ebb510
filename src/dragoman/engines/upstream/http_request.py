"""Requests to upstreams: where they go, and what is sent."""

import functools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from dragoman import __version__
from dragoman.core.secret_text import SecretText

_PASSED_ON = re.compile(r"x-request-id|traceparent|tracestate|anthropic-(version|beta)|x-claude-code-[a-z0-9-]+")
"""Headers that a request may have besides the client's own. None of them is secret."""

_HEADER_VALUE = re.compile(r"[\x20-\x7e]{1,8192}")
_PATH = re.compile(r"(/[A-Za-z0-9._~%:@!$&'()*+,;=-]*)+(\?[A-Za-z0-9._~%:@!$&'()*+,;=/?-]*)?")

_MAX_REMEMBERED = 256
"""Paths, and names of headers, that are not looked at again: all of them are the program's own."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


class UpstreamAddress(NamedTuple):
    """Where an upstream listens."""

    scheme: str
    """http, https or unix."""
    host: str
    port: int
    path: str
    """unix: the socket. Otherwise it begins the path of every request."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse `http://HOST`, `https://HOST` or `unix:///PATH`. Raises ValueError, which does not repeat the URL.

        `/v1` at the end is left out, since every path of a request begins with it: clients' base URLs have it.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")  # Raises UnicodeError, a ValueError, where a look-up would.
        except ValueError:
            raise ValueError("an upstream's URL is malformed") from None
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("an upstream's URL has no user, query or fragment; its key is a setting of its own")
        if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
            return cls("unix", "localhost", 0, parts.path)
        path = parts.path.rstrip("/").removesuffix("/v1")
        is_sound = url.isascii() and url.isprintable() and (not path or _PATH.fullmatch(path))
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not is_sound:
            raise ValueError("an upstream's URL is http://HOST, https://HOST or unix:///PATH")
        return cls(parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme], path)

    @property
    def authority(self) -> str:
        """The value of the header `host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in (0, _DEFAULT_PORTS.get(self.scheme)) else f"{host}:{self.port}"

    @property
    def root_path(self) -> str:
        """What begins the path of every request."""
        return "" if self.scheme == "unix" else self.path


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to an upstream."""

    path: str
    """Below the root path, as `/v1/models`."""
    body: bytes | None = None
    """JSON. None: the request is a GET."""
    headers: Mapping[str, str] = {}
    """Identifiers, traces, and what is passed on to one kind of upstream, by lower-case names."""
    deadline: float = math.inf
    """When the client waits no longer, in the event loop's time."""


def identifying_headers(request_id: str, trace: str) -> Mapping[str, str]:
    """Return the headers that say which request it is, and continue its trace; empty values have none."""
    headers = {"x-request-id": request_id, "traceparent": trace}
    return {name: value for name, value in headers.items() if value}


@functools.lru_cache(maxsize=_MAX_REMEMBERED)
def _is_path(path: str) -> bool:
    return _PATH.fullmatch(path) is not None


@functools.lru_cache(maxsize=_MAX_REMEMBERED)
def _is_passed_on(name: str) -> bool:
    return _PASSED_ON.fullmatch(name) is not None


class RequestSerializer:
    """Writes the requests to one upstream. No header of a client gets into them but the ones that may."""

    def __init__(self, address: UpstreamAddress, key: SecretText | None, key_header: str) -> None:
        """Raises ValueError, without the key, if it cannot be sent in a header."""
        self._root_path = address.root_path
        common = [
            f"host: {address.authority}",
            f"user-agent: dragoman/{__version__}",
            "accept-encoding: identity",  # Without it, any encoding is acceptable (RFC 9110, 12.5.3).
        ]
        if key is not None:
            text = key.reveal()
            if not _HEADER_VALUE.fullmatch(text):
                raise ValueError("an upstream's key has characters that a header cannot have, or too many")
            common.append(f"{key_header}: {f'Bearer {text}' if key_header == 'authorization' else text}")
        self._common = "\r\n".join(common)

    def serialize(self, request: UpstreamRequest, accept: str) -> bytes:
        """Return the bytes to send.

        A value that no header can have is left out. Raises ValueError for a header that is never sent to an upstream.
        """
        path = self._root_path + request.path
        if not _is_path(path):
            raise ValueError("the path of a request to an upstream has characters that must be encoded")
        method = "GET" if request.body is None else "POST"
        lines = [f"{method} {path} HTTP/1.1", self._common, f"accept: {accept}"]
        for name, value in request.headers.items():
            if not _is_passed_on(name):
                raise ValueError(f"the header {name!r} is not sent to upstreams")
            if _HEADER_VALUE.fullmatch(value):
                lines.append(f"{name}: {value}")
        body = request.body or b""
        if request.body is not None:
            lines.append(f"content-type: application/json\r\ncontent-length: {len(body)}")
        return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body
