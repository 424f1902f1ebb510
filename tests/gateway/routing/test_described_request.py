"""What a router knows of a request."""

from dragoman.core.request import GenerationRequest, TextPrompt
from dragoman.gateway.routing.described_request import describe
from dragoman.gateway.routing.policies import RoutingRequest


def described(owner: str = "", cache_salt: str = "", affinity: str = "") -> RoutingRequest:
    prompt = TextPrompt("a" * 2_000)
    request = GenerationRequest(model="m", prompt=prompt, owner=owner, cache_salt=cache_salt, affinity=affinity)
    return describe(request, separations={True, False}).routing


def test_hashes_for_replicas_that_separate_owners_have_nothing_in_common_between_owners_and_salts() -> None:
    blocks = [described(owner=owner, cache_salt=salt).blocks for owner in ("", "a") for salt in ("", "x")]
    assert len({block for each in blocks for block in each}) == 4 * 3


def test_hashes_for_replicas_that_share_prefixes_are_those_of_all_owners() -> None:
    first, second = described(owner="a"), described(owner="b")
    assert first.shared_blocks == second.shared_blocks
    assert not set(first.shared_blocks) & set(first.blocks)
    assert first.blocks_for(separates_owners=False) == first.shared_blocks


def test_no_two_owners_have_an_affinity_in_common() -> None:
    assert described(owner="a", affinity="s").affinity == described(owner="a", affinity="s").affinity
    affinities = {
        described(owner=owner, affinity=name).affinity for owner, name in (("a", "bs"), ("ab", "s"), ("", "s"))
    }
    assert len(affinities) == 3
    assert described(owner="a").affinity == ""
