"""What upstreams report of their load, in the words of each kind."""

import asyncio

import pytest

from dragoman.engines.reported_load import WANTED_SECONDS, LoadReports, ReportedLoad
from dragoman.engines.upstream.engine import UpstreamEngine
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress
from dragoman.engines.upstream.kinds import KINDS, KindName
from dragoman.engines.upstream.load_metrics import parse_load
from tests.support.manual_clock import ManualClock
from tests.support.scripted_upstream import ScriptedUpstream, response, running_upstream, sends
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta/llama"} 5.0
vllm:num_requests_running{engine="1",model_name="meta/llama"} 2.0
vllm:num_requests_waiting{engine="0",model_name="meta/llama"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="meta/llama"} 50.0
vllm:kv_cache_usage_perc{engine="0",model_name="meta/llama"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="meta/llama"} 0.5
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1000",x="a}b"} 1.0
vllm:lora_requests_info{max_lora="2",running_lora_adapters="old",waiting_lora_adapters=""} 1.0
vllm:lora_requests_info{max_lora="2",running_lora_adapters="sql, python",waiting_lora_adapters="chat"} 7.0
vllm:prompt_tokens_total{engine="0",model_name="meta/llama"} 8.0
"""

SGLANG = b"""\
sglang:num_running_reqs{model_name="m"} 4
sglang:num_queue_reqs{model_name="m"} NaN
sglang:token_usage{model_name="m"} 0.28
"""

LLAMA_SERVER = b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 6\n"

DRAGOMAN = b"""\
dragoman_running_sequences{model="m"} 3.0
dragoman_running_sequences{model="another"} 30.0
dragoman_waiting_sequences{model="m"} 1.0
dragoman_kv_cache_used_cells{model="m"} 512.0
dragoman_kv_cache_capacity_cells{model="m"} 2048.0
"""

LOADS: list[tuple[KindName, bytes, ReportedLoad | None]] = [
    (
        "vllm",
        VLLM,
        ReportedLoad(
            other_requests=9,
            kv_usage=0.5,
            cache_tokens=16_000,
            active_adapters=frozenset({"d:sql", "d:python"}),
            waiting_adapters=frozenset({"d:chat"}),
            max_adapters=2,
        ),
    ),
    ("vllm", b"vllm:num_requests_running 1\n", ReportedLoad(other_requests=0)),
    ("sglang", SGLANG, ReportedLoad(other_requests=3, kv_usage=0.28)),
    ("llama-server", LLAMA_SERVER, ReportedLoad(other_requests=6)),
    ("dragoman", DRAGOMAN, ReportedLoad(other_requests=3, kv_usage=0.25, cache_tokens=2_048)),
    ("dragoman", DRAGOMAN.replace(b'"m"', b'"n"'), None),
    ("vllm", b"", None),
    ("vllm", b"<html>\xff{</html>\n", None),
]


@pytest.mark.parametrize(("kind", "text", "load"), LOADS)
def test_the_load_by_others_is_what_is_reported_less_what_this_process_has_sent(
    kind: KindName, text: bytes, load: ReportedLoad | None
) -> None:
    names = KINDS[kind].load
    assert names is not None
    assert parse_load(text, names, model="m", own_requests=1, adapter_prefix="d:") == load


def test_a_report_is_read_until_it_is_old_and_wanted_while_somebody_reads() -> None:
    clock = ManualClock()
    reports = LoadReports(10.0, clock)
    assert not reports.are_wanted()
    assert reports.read() is None
    assert reports.are_wanted()
    reports.report(ReportedLoad(other_requests=2))
    clock.advance(10.0)
    assert reports.read() == ReportedLoad(other_requests=2)
    clock.advance(0.1)
    assert reports.read() is None
    clock.advance(WANTED_SECONDS)
    assert not reports.are_wanted()


ENDLESS = b"llamacpp:requests_processing 1e308\nllamacpp:requests_deferred 1e308\n"


@pytest.mark.parametrize(
    ("reply", "is_there"),
    [
        (response(200, LLAMA_SERVER), True),
        (response(501), False),
        (response(200, b"x"), False),
        (response(200, ENDLESS), False),
    ],
)
async def test_an_upstream_without_metrics_is_no_failure(reply: bytes, is_there: bool) -> None:
    upstream = ScriptedUpstream(sends(reply))
    async with running_upstream(upstream) as url, asyncio.timeout(TEST_TIMEOUT_SECONDS):
        engine = UpstreamEngine("m/0", UpstreamClient(UpstreamAddress.parse(url)), model="m", kind="llama-server")
        assert await engine.read_load() == is_there
        assert (engine.load_reports.read() is not None) == is_there
        await engine.close()
    [request] = upstream.requests
    assert request.head.startswith(b"GET /metrics ")
