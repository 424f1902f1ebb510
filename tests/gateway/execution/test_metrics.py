"""What is measured of a request's tokens."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from dragoman.gateway.execution.metrics import RequestHistogram, RequestMetrics

BUCKETS = (0.5, 1, 2)


@given(st.lists(st.floats(0, 4) | st.sampled_from(BUCKETS), max_size=20))
def test_observations_together_count_like_those_one_by_one(amounts: list[float]) -> None:
    registries = [CollectorRegistry() for _ in range(2)]
    RequestHistogram("seconds", "", buckets=BUCKETS, registry=registries[0]).observe_all(amounts)
    one_by_one = Histogram("seconds", "", buckets=BUCKETS, registry=registries[1])
    for amount in amounts:
        one_by_one.observe(amount)
    for suffix, labels in [("count", {}), *(("bucket", {"le": le}) for le in ("0.5", "1.0", "2.0", "+Inf"))]:
        together, apart = (registry.get_sample_value(f"seconds_{suffix}", labels) for registry in registries)
        assert together == apart


def test_the_intervals_between_the_tokens_of_each_choice_are_counted_at_the_end() -> None:
    registry = CollectorRegistry()
    timer = RequestMetrics(registry).start_timer("m")
    for index, count in [(0, 1), (1, 1), (0, 2), (0, 1), (1, 1)]:
        timer.observe_tokens(index, count)

    def intervals() -> float | None:
        return registry.get_sample_value("dragoman_inter_token_latency_seconds_count", {"model": "m"})

    assert registry.get_sample_value("dragoman_time_to_first_token_seconds_count", {"model": "m"}) == 1
    assert intervals() == 0
    timer.end("ok", 6)
    assert intervals() == 3
