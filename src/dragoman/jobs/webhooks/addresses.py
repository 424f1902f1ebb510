"""Which addresses messages may be sent to: whoever names a URL must not reach what only this server can reach."""

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult

Address: TypeAlias = IPv4Address | IPv6Address

_NEVER_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # protocol assignments
            "192.88.99.0/24",  # relays of 6to4, given up
            "64:ff9b:1::/48",  # NAT64 of a site's own
            "2001::/32",  # Teredo, which leads to any IPv4 address
            "2002::/16",  # 6to4, the same
        ),
    )
)
"""Not all versions of Python know them as such."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are the IPv4 address that is reached."""


class AddressRefused(Exception):
    """No messages are sent there."""


def is_public(address: Address) -> bool:
    """Whether it is anybody's in the Internet: not private, loopback, link-local, multicast, reserved or unspecified,
    and no other way to write such an IPv4 address."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address.is_site_local:
            return False
    return (
        address.is_global
        and not address.is_private
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_link_local
        and not address.is_unspecified
        and not address.is_loopback
        and not any(address in network for network in _NEVER_PUBLIC if network.version == address.version)
    )


def literal_address(host: str) -> Address | None:
    """The address that a URL's host is; None: it is a name. Raises AddressRefused for one in an unusual spelling."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        # The system would take 2130706433 and 127.1 for addresses too.
        if ":" in host or host.replace(".", "").isdigit():
            raise AddressRefused("the address is not written as addresses are") from None
        return None


class PublicResolver(AbstractResolver):
    """Looks names up, and gives the connector those of their addresses alone that may be connected to."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises AddressRefused when all of them are refused, OSError when there are none."""
        found = await self._resolver.resolve(host, port, family)
        public = [each for each in found if is_public(ipaddress.ip_address(each["host"]))]
        if found and not public:
            raise AddressRefused("the name stands for an address that is not public")
        return public

    async def close(self) -> None:
        await self._resolver.close()


class SystemResolver(AbstractResolver):
    """Asks the system, on threads of its own: nobody waits for a name server that does not answer somebody else."""

    def __init__(self, most_at_once: int) -> None:
        self._threads = ThreadPoolExecutor(most_at_once, "webhook-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._threads, _addresses, host, port, family, socket.AI_ADDRCONFIG | socket.AI_NUMERICSERV
            )
        except UnicodeError as error:  # a part of the name that is empty or too long
            raise OSError(f"no such name: {error}") from error
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in found
        ]

    async def close(self) -> None:
        """Wait for nobody."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _addresses(host: str, port: int, family: int, flags: int) -> list[tuple[int, str]]:
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=flags)
    return [(kind, str(address[0])) for kind, _, _, _, address in found]
