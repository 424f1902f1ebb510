"""The console's cookie: the secret of this browser, which opens its session and proves its forms."""

from starlette.requests import Request
from starlette.responses import Response

from dragoman.server.console.services import ConsoleServices
from dragoman.server.origins import is_loopback_host, parse_host

SECURE_NAME = "__Host-dragoman"
"""Browsers accept this name only over HTTPS, and only from this very host (RFC 6265bis, section 4.1.3.2)."""

LOCAL_NAME = "dragoman"
"""On this machine, without HTTPS."""

THEME_NAME = "dragoman-theme"

_MAX_AGE_SECONDS = 30 * 24 * 3600


class CookieJar:
    """The cookies of one request."""

    def __init__(self, request: Request, services: ConsoleServices) -> None:
        self._root = services.root
        self.is_secure = _is_secure(request, services)
        host = parse_host(request.scope.get("dragoman.host") or request.headers.get("host", ""))
        self.may_sign_in = self.is_secure or (host is not None and is_loopback_host(host.name))
        """Whether a secret may be sent to this host: over HTTPS, or without leaving this machine."""
        cookies = _parse(request.headers.get("cookie", ""))
        self.secret = cookies.get(SECURE_NAME if self.is_secure else LOCAL_NAME) or None
        """The secret of this browser. None: it has none yet."""
        theme = cookies.get(THEME_NAME, "")
        self.theme = theme if theme in ("light", "dark") else ""

    def set(self, response: Response, secret: str) -> None:
        """Give the browser this secret."""
        response.set_cookie(
            SECURE_NAME if self.is_secure else LOCAL_NAME,
            secret,
            max_age=_MAX_AGE_SECONDS,
            path="/" if self.is_secure else self._root,
            secure=self.is_secure,
            httponly=True,
            samesite="strict",
        )


def _is_secure(request: Request, services: ConsoleServices) -> bool:
    client = request.client.host if request.client is not None else ""
    if client in services.http.trusted_proxies and (scheme := request.headers.get("x-forwarded-proto")):
        return scheme.rpartition(",")[2].strip().lower() == "https"
    return request.url.scheme == "https"


def _parse(header: str) -> dict[str, str]:
    """Return the cookies by name, of equal names the last. Ours have no quotes, on which http.cookies is slow."""
    pairs = (part.partition("=") for part in header.split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs}
