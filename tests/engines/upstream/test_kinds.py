"""What kinds of upstreams can do, and what is sent to them."""

from typing import get_args

import pytest

from dragoman.core.capabilities import needs_beyond
from dragoman.core.request import SamplingParams
from dragoman.engines.upstream.kinds import KINDS, KindName
from dragoman.server.upstream_settings import UpstreamKindName


def test_the_settings_name_every_kind() -> None:
    assert set(get_args(UpstreamKindName)) == set(get_args(KindName)) == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampling_parameter_is_sent_exactly_if_the_kind_has_its_capability(kind: KindName) -> None:
    for need, _ in needs_beyond(frozenset()):
        if need.parameter in SamplingParams.__struct_fields__:
            is_sent = need.parameter in KINDS[kind].fields
            assert is_sent == (need.capability in KINDS[kind].capabilities), need.parameter
