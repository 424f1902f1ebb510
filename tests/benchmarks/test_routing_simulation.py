from benchmarks.routing_simulation import Simulation, Workload

WORKLOAD = Workload(requests=1_500, requests_per_second=3.0)


def test_cache_hits_prefixes_1_5_times_as_often_as_least_is_no_slower_and_spreads_cold_requests_evenly() -> None:
    cache, least = (Simulation(policy, WORKLOAD).run() for policy in ("cache", "least"))
    assert cache.prompt_tokens == least.prompt_tokens
    assert cache.hit_tokens >= 1.5 * least.hit_tokens
    assert cache.first_token_p95 <= least.first_token_p95
    assert cache.answer_p95 <= least.answer_p95
    assert cache.cold_spread <= 0.2


def test_cold_requests_alone_are_spread_evenly() -> None:
    result = Simulation("cache", Workload(requests=800, requests_per_second=2.0, cold_share=1.0)).run()
    assert result.hit_tokens == 0
    assert result.cold_spread <= 0.2
