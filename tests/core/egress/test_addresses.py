"""Clients that name URLs cannot reach the server's own network."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.egress.addresses import AddressRefused, is_public, literal_address

PRIVATE = [
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "192.0.0.9", "192.0.2.1"),
    *("127.0.0.1", "127.255.255.255", "169.254.169.254", "0.0.0.0", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
    *("255.255.255.255", "::1", "::", "fe80::1", "fe80::1%1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2001:db8::1"),
    *("2002:7f00:1::1", "2001:0:808:808::1", "100::1"),
    *("3fff::1", "3fff:fff::1", "5f00::1", "100:0:0:1::1", "200::1", "4000::1", "2001:10::1", "2001:2::1"),
]
PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("text", PRIVATE)
def test_special_purpose_addresses_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_other_addresses_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses(v=6, network="::/0"))
def test_only_global_unicast_and_translated_addresses_of_ipv6_are_public(address: ipaddress.IPv6Address) -> None:
    translated = address.ipv4_mapped is not None or address in ipaddress.ip_network("64:ff9b::/96")
    assert translated or address in ipaddress.ip_network("2000::/3") or not is_public(address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_as_public_in_ipv6_as_it_is_itself(address: ipaddress.IPv4Address) -> None:
    assert is_public(ipaddress.ip_address(f"::ffff:{address}")) == is_public(address)
    assert is_public(ipaddress.ip_address(f"64:ff9b::{address}")) == is_public(address)


@pytest.mark.parametrize("host", ["2130706433", "127.1", "127.0.0.1.", "0177.0.0.1", "1:2", "::1::"])
def test_an_address_in_another_spelling_is_refused(host: str) -> None:
    with pytest.raises(AddressRefused):
        literal_address(host)


def test_a_host_name_is_not_a_literal_address() -> None:
    assert literal_address("receiver.test") is None
    assert literal_address("0x7f.1") is None  # The system resolves it to an address, which is checked then.
