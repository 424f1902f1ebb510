"""Metrics under the names that dashboards, alert rules and other programs ask for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dragoman.server.vllm_metrics import VllmMetrics
from tools.metrics_tables import registry

DEPLOY = Path(__file__).parent.parent.parent / "deploy"

_METRIC = re.compile(r"\bdragoman_\w+")


def exported() -> set[str]:
    """Return the names of all samples in `/metrics`."""
    families = text_string_to_metric_families(generate_latest(registry()).decode())
    return {sample.name for family in families for sample in family.samples}


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dragoman.json").read_text())
    return found


def board_expressions() -> Iterator[str]:
    for panel in board()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in board()["templating"]["list"]:
        yield variable["query"]["query"]


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in rules()), *board_expressions()])
def test_every_metric_that_an_alert_or_a_diagram_names_is_exported(expression: str) -> None:
    names = set(_METRIC.findall(expression))
    assert names or expression == 'up{job="dragoman"} == 0'
    assert names <= exported()
    assert expression.count("(") == expression.count(")")
    assert expression.count("{") == expression.count("}")


def test_every_alert_has_a_name_of_its_own_a_severity_and_a_summary() -> None:
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    assert {rule["labels"]["severity"] for rule in found} == {"critical", "warning", "info"}
    assert all(rule["annotations"]["summary"].endswith(".") for rule in found)


def test_the_dashboard_can_be_imported_and_shows_every_metric_of_dragoman() -> None:
    found = board()
    assert "id" not in found, "Grafana gives it one"
    assert [each["name"] for each in found["__inputs"]] == ["DS_PROMETHEUS"]
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    shown = {name.removesuffix("_bucket") for each in board_expressions() for name in _METRIC.findall(each)}
    families = {family.name for family in text_string_to_metric_families(generate_latest(registry()).decode())}
    written = {name for name in families if not name.endswith("_created")}
    assert {name.removesuffix("_total") for name in shown} == written


def test_the_names_of_vllm_have_its_labels_and_the_same_values() -> None:
    text = generate_latest(VllmMetrics(registry())).decode()
    lines = set(text.splitlines())
    labels = 'engine="0",model_name="model"'
    assert f"vllm:num_requests_running{{{labels}}} 0.0" in lines
    assert f"vllm:generation_tokens_total{{{labels}}} 1.0" in lines
    assert f"vllm:kv_cache_usage_perc{{{labels}}} 0.0" in lines
    assert f'vllm:cache_config_info{{block_size="1",{labels},num_gpu_blocks="1"}} 1.0' in lines
    assert f"vllm:e2e_request_latency_seconds_count{{{labels}}} 1.0" in lines
    assert "dragoman" not in "".join(line for line in lines if not line.startswith("#"))
