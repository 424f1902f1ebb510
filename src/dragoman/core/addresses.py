"""IP addresses as sockets, proxies and settings write them: compared as addresses, never as texts."""

import functools
import ipaddress
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Self, TypeAlias

IpAddress: TypeAlias = IPv4Address | IPv6Address

_CUSTOMER_BITS = 64
"""The IPv6 network that a single customer usually has."""

_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([^:]*):\d+")
"""`[IPv6]`, `[IPv6]:PORT` or `IPv4:PORT`."""

_REMEMBERED = 4096


def parse_address(text: str) -> IpAddress | None:
    """Parse an address that may have a port, brackets or a zone. None: it is no address.

    An IPv4 address in IPv6 (`::ffff:192.0.2.1`), which a socket that listens on `::` reports, becomes the IPv4 address.
    """
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] if match[2] is None else match[2]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@functools.lru_cache(_REMEMBERED)
def client_network(text: str) -> str:
    """Return what stands for one client: an IPv4 address, the /64 of an IPv6 address, or a text that is neither."""
    address = parse_address(text)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _CUSTOMER_BITS), strict=False))
    return text if address is None else str(address)


class InvalidNetwork(ValueError):
    """The text is neither an address nor a network."""


UNIX_SOCKETS = "unix"
"""Stands in an AddressSet for the clients of Unix sockets, whose address is empty."""


class AddressSet:
    """A set of addresses, given as addresses and networks."""

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network] = (), *, unix_sockets: bool = False) -> None:
        self._networks = tuple(networks)
        self._unix_sockets = unix_sockets
        self._contains = functools.lru_cache(_REMEMBERED)(self._look_up)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Parse addresses and networks, such as `10.0.0.0/8`, and UNIX_SOCKETS. Raises InvalidNetwork."""
        given = set(texts)
        return cls(map(_parse_network, given - {UNIX_SOCKETS}), unix_sockets=UNIX_SOCKETS in given)

    def __bool__(self) -> bool:
        return bool(self._networks) or self._unix_sockets

    def __contains__(self, text: object) -> bool:
        """Whether the text is an address of the set, in any of the spellings of `parse_address`."""
        if text == "":
            return self._unix_sockets
        return bool(self._networks) and isinstance(text, str) and self._contains(text)

    def _look_up(self, text: str) -> bool:
        address = parse_address(text)
        return address is not None and any(address in network for network in self._networks)


NO_ADDRESSES: frozenset[str] = frozenset()
"""An empty set, which is asked faster than an AddressSet."""


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise InvalidNetwork(
            f"{text!r} is neither an IP address nor a network such as 10.0.0.0/8, whose bits behind the / are zero"
        ) from None
    if isinstance(network, IPv6Network) and (mapped := network.network_address.ipv4_mapped) is not None:
        return IPv4Network((mapped, max(0, network.prefixlen - 96)))
    return network
