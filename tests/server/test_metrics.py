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
    Counter("tokens", "Tokens", registry=CollectorRegistry()).inc(3)
    shared = CollectorRegistry()
    MultiProcessCollector(shared, str(tmp_path))  # type: ignore[no-untyped-call]
    assert shared.get_sample_value("tokens_total") == 3
