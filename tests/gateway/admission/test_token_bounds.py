import pytest

from dragoman.core.capabilities import ALL_CAPABILITIES
from dragoman.core.errors import DragomanError, ReplicaFailed
from dragoman.core.request import GenerationRequest, Prompt, SamplingParams, TextPrompt
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.admission.token_bounds import TokenBounds, token_bounds
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica

REQUEST = GenerationRequest(model="m", prompt=TextPrompt("abc"), sampling=SamplingParams(max_tokens=5))
LOST = ReplicaFailed("The upstream cannot be reached", "refused")


class CountingEngine(EchoEngine):
    """Counts so many tokens, or fails."""

    def __init__(self, result: int | DragomanError, *, is_exact: bool = True) -> None:
        super().__init__()
        self._result = result
        self.capabilities = ALL_CAPABILITIES if is_exact else ALL_CAPABILITIES - {"exact_token_counts"}
        self.counts = 0

    async def count_tokens(self, prompt: Prompt) -> int:
        self.counts += 1
        if isinstance(self._result, DragomanError):
            raise self._result
        return self._result


def deployment(*engines: CountingEngine) -> Deployment:
    replicas = tuple(Replica(f"m/{number}", engine, is_upstream=True) for number, engine in enumerate(engines))
    return Deployment(name="m", replicas=replicas)


async def test_tokens_are_counted_by_another_engine_if_one_does_not_answer() -> None:
    dead, alive = CountingEngine(LOST), CountingEngine(7)
    assert await token_bounds(deployment(dead, alive), [REQUEST]) == TokenBounds(7, 5)
    assert dead.counts == 1


async def test_an_estimate_is_better_than_no_answer() -> None:
    engines = CountingEngine(9, is_exact=False), CountingEngine(LOST), CountingEngine(LOST)
    assert await token_bounds(deployment(*engines), [REQUEST]) == TokenBounds(9, 5)


async def test_an_engine_that_is_left_out_is_asked_last() -> None:
    ejected, estimating = CountingEngine(7), CountingEngine(9, is_exact=False)
    served = deployment(ejected, estimating)
    assert served.router is not None
    served.router.health.begin("m/0").fail("configuration")
    assert await token_bounds(served, [REQUEST]) == TokenBounds(9, 5)
    assert ejected.counts == 0


async def test_without_any_answer_the_request_fails() -> None:
    with pytest.raises(ReplicaFailed, match="cannot be reached"):
        await token_bounds(deployment(CountingEngine(LOST), CountingEngine(LOST)), [REQUEST])
