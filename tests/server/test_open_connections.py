from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.addresses import AddressSet
from dragoman.server.http_protocol import OpenConnections


def test_the_addresses_of_an_ipv6_network_are_one_client_and_mapped_ipv4_addresses_are_several() -> None:
    connections = OpenConnections(9, 1, AddressSet.parse(["10.0.0.0/8"]))
    assert [connections.add(f"2001:db8::{n}") for n in range(2)] == [True, False]
    assert [connections.add(f"::ffff:192.0.2.{n}") for n in range(2)] == [True, True]
    assert [connections.add("::ffff:10.0.0.1") for _ in range(2)] == [True, True]
    connections.remove("2001:db8::0")
    assert connections.add("2001:db8::9")


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=60))
def test_connections_are_counted_as_a_model_counts_them(actions: list[tuple[bool, str]]) -> None:
    connections = OpenConnections(5, 3, frozenset())
    model: list[str] = []
    for opens, address in actions:
        if opens:
            is_room = len(model) < 5 and model.count(address) < 3
            assert connections.add(address) is is_room
            if is_room:
                model.append(address)
        elif address in model:
            connections.remove(address)
            model.remove(address)
