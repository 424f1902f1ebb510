"""Check URLs that clients name, and extract the parts that may be logged.

URLs are parsed by the library that also connects to them, so that both see the same host. It is imported with the first
one, since most servers see none.
"""

from typing import TYPE_CHECKING, NamedTuple

from dragoman.core.egress.addresses import AddressRefused, is_public, literal_address

if TYPE_CHECKING:
    from yarl import URL


class UrlRefused(ValueError):
    """No request may be sent to the URL. The error is one line with the reason, without the URL."""


class UrlRules(NamedTuple):
    """The URLs that the settings allow."""

    allow_http: bool = False
    """Allow URLs without TLS."""
    allow_private: bool = False
    """Allow addresses that are not public."""
    settings: str = "queue.webhook"
    """How the keys of the settings begin, which errors name."""

    def check(self, url: str) -> "URL":
        """Return the parsed URL if it is allowed, as far as that is known without a name look-up. Raises UrlRefused."""
        try:
            parsed = _parse(url)
            port = parsed.port
        except ValueError:
            raise UrlRefused("it is no URL") from None
        if parsed.scheme not in ("https", "http") or not parsed.raw_host or not port:
            raise UrlRefused("it is no URL of a web server")
        if parsed.scheme == "http" and not self.allow_http:
            raise UrlRefused(f"it does not begin with https://; {self.settings}_allow_http = true would allow that")
        try:
            address = literal_address(parsed.raw_host)
        except AddressRefused as error:
            raise UrlRefused(str(error)) from None
        if address is not None and not self.allow_private and not is_public(address):
            raise UrlRefused(
                f"its address is not public; {self.settings}_allow_private_addresses = true would allow that"
            )
        return parsed


def origin(url: str) -> str:
    """Return scheme, host and port of a URL. The other parts may contain secrets and must not be shown."""
    try:
        return str(_parse(url).origin())
    except ValueError:
        return "?"


def host_of(url: str) -> str:
    """Return the host of a URL. Empty: it has none."""
    try:
        return _parse(url).raw_host or ""
    except ValueError:
        return ""


def _parse(url: str) -> "URL":
    from yarl import URL

    return URL(url)
