"""Connect to one of a host's addresses."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

ConnectedT = TypeVar("ConnectedT")

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host for a port, the best one first. Raises OSError."""


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """Implements Resolve. An address stands for itself."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))
    return [host]


async def connect_to_any(
    addresses: Sequence[str], connect: Callable[[str], Awaitable[ConnectedT]], seconds: float
) -> ConnectedT:
    """Return the connection to the first address that accepts one.

    Each but the last has half of the time that is left: of a machine that is gone, nobody refuses. Raises OSError or
    TimeoutError of the last one.
    """
    ends_at = asyncio.get_running_loop().time() + seconds
    for address in addresses[:-1]:
        try:
            async with asyncio.timeout((ends_at - asyncio.get_running_loop().time()) / 2):
                return await connect(address)
        except OSError:  # TimeoutError is one.
            continue
    async with asyncio.timeout_at(ends_at):
        return await connect(addresses[-1])
