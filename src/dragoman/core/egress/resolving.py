"""Resolve the host names of URLs to addresses that may be connected to."""

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from dragoman.core.egress.addresses import AddressRefused, is_public


class PublicResolver(AbstractResolver):
    """Returns only the public addresses of another resolver's results."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve the host. Raises AddressRefused if all its addresses are refused, OSError if it has none."""
        found = await self._resolver.resolve(host, port, family)
        public = [each for each in found if is_public(ipaddress.ip_address(each["host"]))]
        if found and not public:
            raise AddressRefused("the name stands for an address that is not public")
        return public

    async def close(self) -> None:
        await self._resolver.close()


class SystemResolver(AbstractResolver):
    """The system's resolver on threads of its own, so that a slow name server delays no other look-up."""

    def __init__(self, max_concurrent: int) -> None:
        self._threads = ThreadPoolExecutor(max_concurrent, "egress-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve the host. Raises OSError."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._threads, _addresses, host, port, family, socket.AI_ADDRCONFIG | socket.AI_NUMERICSERV
            )
        except UnicodeError as error:  # a label of the name is empty or too long
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
        """Stop without waiting for pending look-ups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _addresses(host: str, port: int, family: int, flags: int) -> list[tuple[int, str]]:
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=flags)
    return [(kind, str(address[0])) for kind, _, _, _, address in found]
