"""URLs that clients name: which are sent to, and what may be told of them.

They are taken apart by the library that also connects to them, so that both see the same host.
"""

from typing import NamedTuple

from yarl import URL

from dragoman.jobs.webhooks.addresses import AddressRefused, is_public, literal_address


class UrlRefused(ValueError):
    """No messages are sent there. One line that says why, without the URL."""


class UrlRules(NamedTuple):
    """What clients may name, as the settings have it."""

    allow_http: bool = False
    """Also without TLS."""
    allow_private: bool = False
    """Also addresses that are not public."""

    def check(self, url: str) -> URL:
        """The URL, if it may be sent to as far as can be told without looking its name up. Raises UrlRefused."""
        try:
            parsed = URL(url)
            port = parsed.port
        except ValueError:
            raise UrlRefused("it is no URL") from None
        if parsed.scheme not in ("https", "http") or not parsed.raw_host or not port:
            raise UrlRefused("it is no URL of a web server")
        if parsed.scheme == "http" and not self.allow_http:
            raise UrlRefused("it does not begin with https://; queue.webhook_allow_http = true would allow that")
        try:
            address = literal_address(parsed.raw_host)
        except AddressRefused as error:
            raise UrlRefused(str(error)) from None
        if address is not None and not self.allow_private and not is_public(address):
            raise UrlRefused("its address is not public; queue.webhook_allow_private_addresses = true would allow that")
        return parsed


def origin(url: str) -> str:
    """What may be told of a URL: its scheme, host and port. The rest may be what the receiver knows its senders by."""
    try:
        return str(URL(url).origin())
    except ValueError:
        return "?"


def host_of(url: str) -> str:
    """Whom a URL leads to; empty: nowhere."""
    try:
        return URL(url).raw_host or ""
    except ValueError:
        return ""
