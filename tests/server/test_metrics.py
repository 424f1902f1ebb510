"""The counts that worker processes share."""

from pathlib import Path

import prometheus_client.values
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.multiprocess import MultiProcessCollector

from dragoman.server.metrics import count_as_one_process


def test_what_a_process_counts_is_seen_by_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus_client.values, "ValueClass", prometheus_client.values.ValueClass)
    count_as_one_process()
    assert prometheus_client.values.ValueClass is prometheus_client.values.MutexValue
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    count_as_one_process()
    tokens = Counter("tokens", "Tokens", registry=CollectorRegistry())
    tokens.inc(3)
    shared = CollectorRegistry()
    MultiProcessCollector(shared, str(tmp_path))  # type: ignore[no-untyped-call]
    assert shared.get_sample_value("tokens_total") == 3

    many = Counter("requests", "Requests", ("model",), registry=CollectorRegistry())
    [file] = tmp_path.glob("counter_*.db")
    size = file.stat().st_size
    for number in range(size // 64):
        many.labels(str(number)).inc()
    assert file.stat().st_size > size, "the file has grown under the first counter"
    tokens.inc(0.5)
    assert shared.get_sample_value("tokens_total") == tokens._value.get() == 3.5
    assert shared.get_sample_value("requests_total", {"model": "7"}) == 1
