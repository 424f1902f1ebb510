"""Which host names are served, and to which web pages.

A server without keys serves whoever reaches its port. A web page that somebody opens on this machine reaches it too:

- under a name of the page's own, which its name server lets stand for this machine (DNS rebinding). So a server without
  keys is served only under names that no stranger can choose (421 for others).
- under this machine's name, with requests that a browser sends although it hides their responses from the page.
  Browsers say which page sends a request, in `Origin` and `Sec-Fetch-Site`. Pages of other origins get 403.

A server with keys needs neither: no page has a key, and browsers add none to a page's requests.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from dragoman.core.addresses import parse_address

ANY_ORIGIN = "*"

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/?#@\\,]*)(?::(\d*))?")
"""The value of a Host header: a name or address, and a port (RFC 9110, section 7.2)."""

_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\s]+)")

_DEFAULT_PORTS: Final[Mapping[str, str]] = {"http": "80", "https": "443"}

_MAX_LENGTH = 512
"""Characters of a host or an origin. Names have 253 at most."""

_REMEMBERED = 1024


class Refusal(NamedTuple):
    """Why a request is not served."""

    status: int
    message: str


class InvalidOrigin(ValueError):
    """The text is no host name, or no origin of web pages."""


class HostName(NamedTuple):
    """A host and the port that belongs to it."""

    name: str
    """In lower case, without a dot at the end; an address in its usual spelling."""
    port: str
    """Empty: the default port."""


def parse_host(text: str) -> HostName | None:
    """Parse the value of a Host header. None: it is malformed."""
    match = _HOST.fullmatch(text)
    if match is None or len(text) > _MAX_LENGTH:
        return None
    address = parse_address(match[1])
    return HostName(match[1].lower().removesuffix(".") if address is None else str(address), match[2] or "")


def parse_host_name(text: str) -> str:
    """Parse a host name of the settings. Raises InvalidOrigin for what no Host header names."""
    try:
        name = text.lower().removesuffix(".")
        name = name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        name = ""
    address = parse_address(name) if "%" not in name and not name.startswith("[") else None
    if address is not None and str(address) == name:
        return name
    if address is not None or not _HOST_NAME.fullmatch(name):
        raise InvalidOrigin(f"{text!r} is no host name; write it without scheme, port and path")
    return name


def parse_origin(text: str) -> str:
    """Parse an origin of the settings, such as `https://chat.example.com`. Raises InvalidOrigin."""
    match = _ORIGIN.fullmatch(text.lower())
    if match is None or parse_host(match[2]) is None:
        raise InvalidOrigin(
            f"{text!r} is no origin such as https://chat.example.com, without a path, or {ANY_ORIGIN!r}"
        )
    return text.lower()


def is_loopback_host(name: str) -> bool:
    """Whether the host name or address always stands for this machine itself."""
    address = parse_address(name)
    if address is not None:
        return address.is_loopback
    return name == "localhost" or name.endswith(".localhost")


class OriginPolicy:
    """Decides by a request's host and origin whether it is served."""

    def __init__(
        self,
        *,
        needs_key: bool = True,
        listens_on: str = "127.0.0.1",
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
    ) -> None:
        """`hosts` and `origins` are served besides. Raises InvalidOrigin.

        Without keys, a server that `listens_on` other addresses than loopback is also served under any address and
        under names without a dot, as those of containers: a stranger can register neither.
        """
        self._is_open = not needs_key
        self._is_local = is_loopback_host(listens_on)
        self._hosts = frozenset(map(parse_host_name, hosts))
        self.origins = frozenset(each if each == ANY_ORIGIN else parse_origin(each) for each in origins)
        """Origins whose pages may read responses. None: no headers for browsers are sent."""
        self.refusal = functools.lru_cache(_REMEMBERED)(self._refusal)

    def _refusal(self, host: str, origin: str, site: str) -> Refusal | None:
        """Decide by the Host, Origin and Sec-Fetch-Site headers; an absent one is empty. None: serve it."""
        parsed = parse_host(host)
        if parsed is None:
            return Refusal(400, "The Host header is malformed")
        if not self._is_open:
            return None
        if parsed.name and not self._serves(parsed.name):
            message = f"This server has no keys and is not served under the name {parsed.name!r}"
            return Refusal(421, f"{message}: set keys, or add the name to allowed_hosts")
        if ANY_ORIGIN in self.origins or origin.lower() in self.origins:
            return None
        if site == "cross-site" or (origin and not is_same_origin(origin, parsed)):
            message = "This server has no keys and refuses requests of other web pages"
            return Refusal(403, f"{message}: set keys, or add the page's origin to allowed_origins")
        return None

    def _serves(self, name: str) -> bool:
        if name in self._hosts or is_loopback_host(name):
            return True
        address = parse_address(name)
        if self._is_local:
            return address is not None and address.is_unspecified
        return address is not None or "." not in name


def is_same_origin(origin: str, host: HostName) -> bool:
    """Whether a page of this origin was served under this host. The scheme is the proxy's and is not compared."""
    match = _ORIGIN.fullmatch(origin.lower())
    parsed = parse_host(match[2]) if match else None
    if match is None or parsed is None or parsed.name != host.name:
        return False
    default = _DEFAULT_PORTS.get(match[1], "")
    return (parsed.port or default) == (host.port or default)


SERVE_ALL = OriginPolicy()
"""The policy of a server with keys."""
