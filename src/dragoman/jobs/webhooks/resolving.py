"""From the names in URLs to addresses that may be connected to."""

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from dragoman.jobs.webhooks.addresses import AddressRefused, is_public


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

    def __init__(self, max_concurrent: int) -> None:
        self._threads = ThreadPoolExecutor(max_concurrent, "webhook-names")

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
