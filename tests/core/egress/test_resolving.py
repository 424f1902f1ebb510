"""Names are resolved once, and only to allowed addresses."""

import ipaddress

import pytest
from aiohttp.abc import ResolveResult

from dragoman.core.egress.addresses import AddressRefused
from dragoman.core.egress.resolving import PublicResolver, SystemResolver
from tests.support.jobs.webhook_receivers import StaticResolver


async def test_only_public_addresses_of_a_name_are_returned() -> None:
    class Both(StaticResolver):
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            return [
                ResolveResult(hostname=host, host=address, port=port, family=0, proto=0, flags=0)
                for address in ("10.0.0.1", "8.8.8.8", "::1")
            ]

    assert [each["host"] for each in await PublicResolver(Both()).resolve("both.test")] == ["8.8.8.8"]
    with pytest.raises(AddressRefused):
        await PublicResolver(StaticResolver(inside_test=["10.0.0.1"])).resolve("inside.test")


async def test_the_system_resolver_resolves_names() -> None:
    resolver = SystemResolver(1)
    found = await resolver.resolve("localhost", 80)
    assert all(ipaddress.ip_address(each["host"]).is_loopback for each in found)
    assert [each["host"] for each in await resolver.resolve("0x7f.1", 80)] == ["127.0.0.1"]
    with pytest.raises(OSError, match="no such name"):
        await resolver.resolve("a" * 70 + ".test", 80)
    await resolver.close()
