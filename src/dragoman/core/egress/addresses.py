"""Decide which addresses requests may be sent to, so that clients cannot reach the server's own network (SSRF)."""

import ipaddress
from ipaddress import IPv4Address, IPv6Address

from dragoman.core.addresses import IpAddress

_NON_PUBLIC_NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # protocol assignments
            "192.88.99.0/24",  # relays of 6to4, deprecated
            "64:ff9b:1::/48",  # NAT64 of a site's own
            "2001::/32",  # Teredo, which leads to any IPv4 address
            "2002::/16",  # 6to4, the same
            "2001:10::/28",  # ORCHID, deprecated
            "3fff::/20",  # documentation (RFC 9637)
        ),
    )
)
"""Networks that some versions of Python do not treat as non-public."""

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All other blocks of IPv6 are reserved, or for special purposes (IANA's registry of the IPv6 address space)."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are the IPv4 address."""


class AddressRefused(Exception):
    """No request may be sent to this address."""


def is_public(address: IpAddress) -> bool:
    """Whether the address is a public one: not private, loopback, link-local, multicast, reserved or unspecified.

    An IPv6 address that embeds an IPv4 address is public if that address is.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in _GLOBAL_UNICAST:
            return False
    return (
        address.is_global
        and not address.is_private
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_link_local
        and not address.is_unspecified
        and not address.is_loopback
        and not any(address in network for network in _NON_PUBLIC_NETWORKS if network.version == address.version)
    )


def literal_address(host: str) -> IpAddress | None:
    """Return the address in a URL's host. None: it is a name. Raises AddressRefused for unusual spellings."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        # The system also accepts 2130706433 and 127.1 as addresses.
        if ":" in host or host.replace(".", "").isdigit():
            raise AddressRefused("the address is not written as addresses are") from None
        return None
