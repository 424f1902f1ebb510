"""Keys beyond the limit are dropped, those first that were put longest ago."""

from collections import OrderedDict

from dragoman.core.bounded_dicts import put_last


def test_the_key_that_was_put_longest_ago_is_dropped() -> None:
    values: OrderedDict[str, int] = OrderedDict()
    for key, value in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        assert put_last(values, key, value, 2) == value
    assert list(values.items()) == [("a", 3), ("c", 4)]
