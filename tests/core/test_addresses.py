import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.addresses import AddressSet, InvalidNetwork, client_network, parse_address

IPV4 = st.ip_addresses(v=4)
IPV6 = st.ip_addresses(v=6, network="2000::/3")


def spellings(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[str]:
    if isinstance(address, ipaddress.IPv6Address):
        return [str(address), address.exploded.upper(), f"[{address}]", f"[{address}]:443", f"{address}%eth0"]
    return [str(address), f"{address}:51234", f"::ffff:{address}", f"[::FFFF:{address}]:80"]


@given(IPV4 | IPV6)
def test_every_spelling_of_an_address_is_that_address_and_one_client(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert {parse_address(text) for text in spellings(address)} == {address}
    assert len({client_network(text) for text in spellings(address)}) == 1


@pytest.mark.parametrize(
    "text", ["", "unknown", "_hidden", "10.0.0", "10.0.0.1:", "10.0.0.1:port", "a:80", "[", "::1]:80"]
)
def test_other_texts_are_no_addresses(text: str) -> None:
    assert parse_address(text) is None
    assert client_network(text) == text


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_an_ipv6_network_is_one_client(network: int, one: int, other: int) -> None:
    first, second = (str(ipaddress.IPv6Address(network << 64 | host)) for host in (one, other))
    assert (client_network(first) == client_network(second)) or network == 0, "::ffff:… are IPv4 addresses"


def test_a_set_holds_addresses_and_networks_in_any_spelling() -> None:
    addresses = AddressSet.parse(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::ffff:198.51.100.0/120"])
    for text in ("10.1.2.3", "::ffff:10.1.2.3", "192.0.2.7:80", "2001:DB8::1", "[2001:db8::1]:80", "198.51.100.9"):
        assert text in addresses
    for text in ("11.0.0.1", "192.0.2.8", "2001:db9::1", "", "unknown", "10.0.0.0/8", "198.51.101.9"):
        assert text not in addresses
    assert addresses
    assert not AddressSet()


@pytest.mark.parametrize("text", ["", "*", "nginx", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.1:80", "10.0.0.0-10.0.0.9"])
def test_what_would_never_match_is_refused(text: str) -> None:
    with pytest.raises(InvalidNetwork):
        AddressSet.parse([text])


def test_clients_of_unix_sockets_are_in_a_set_that_names_them() -> None:
    named = AddressSet.parse(["unix", "192.0.2.1"])
    assert "" in named
    assert "192.0.2.1" in named
    assert AddressSet.parse(["unix"])
    assert "" not in AddressSet.parse(["192.0.2.1"])
