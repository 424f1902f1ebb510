"""Generates deploy/grafana/dragoman.json, the dashboard for Grafana.

.venv/bin/python -m tools.grafana_board           # writes it
.venv/bin/python -m tools.grafana_board --check   # fails if it is not up to date
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tools.generated import write_or_check

BOARD = Path(__file__).parent.parent / "deploy" / "grafana" / "dragoman.json"

_SOURCE = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
_SELECTOR = 'job=~"$job", instance=~"$instance", model=~"$model"'
_SERVERS = '{job=~"$job", instance=~"$instance"}'
_WIDTH, _HEIGHT = 8, 8
"""Of a panel."""
_COLUMNS = 24
"""Of the board."""


class Panel(NamedTuple):
    """One diagram. `$s` in an expression stands for the selected series, and `$r` for the rate's interval."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    """Expressions with their legends."""
    kind: str = "timeseries"


def _quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            f"histogram_quantile({q}, sum by (model, le) (rate({metric}_bucket{{$s}}[$r])))",
            f"{{{{model}}}} p{q * 100:g}",
        )
        for q in (0.5, 0.95, 0.99)
    )


_FIRST_TOKEN, _PER_TOKEN = "dragoman_time_to_first_token_seconds", "dragoman_inter_token_latency_seconds"
_BY_MODEL = "{{model}}"

ROWS: dict[str, tuple[Panel, ...]] = {
    "Traffic": (
        Panel(
            "Requests by result",
            "reqps",
            (("sum by (model, result) (rate(dragoman_requests_total{$s}[$r]))", "{{model}} {{result}}"),),
        ),
        Panel(
            "Failed requests",
            "percentunit",
            (
                (
                    'sum by (model) (rate(dragoman_requests_total{$s, result="failed"}[$r]))'
                    " / sum by (model) (rate(dragoman_requests_total{$s}[$r]))",
                    _BY_MODEL,
                ),
            ),
        ),
        Panel("Duration", "s", _quantiles("dragoman_request_duration_seconds")),
    ),
    "Latency": (
        Panel("Time to first token", "s", _quantiles(_FIRST_TOKEN)),
        Panel(
            "Time to first token, all requests",
            "s",
            ((f"sum by (le) (increase({_FIRST_TOKEN}_bucket{{$s}}[$r]))", "{{le}}"),),
            "heatmap",
        ),
        Panel("Time per token", "s", _quantiles(_PER_TOKEN)),
    ),
    "Tokens": (
        Panel("Generated", "short", (("sum by (model) (rate(dragoman_completion_tokens_total{$s}[$r]))", _BY_MODEL),)),
        Panel("Prompts", "short", (("sum by (model) (rate(dragoman_prompt_tokens_total{$s}[$r]))", _BY_MODEL),)),
        Panel(
            "Prompt tokens that were shared",
            "percentunit",
            (
                (
                    "sum by (model) (rate(dragoman_cached_prompt_tokens_total{$s}[$r]))"
                    " / sum by (model) (rate(dragoman_prompt_tokens_total{$s}[$r]))",
                    _BY_MODEL,
                ),
            ),
        ),
    ),
    "Engines": (
        Panel(
            "Sequences",
            "short",
            (
                ("dragoman_running_sequences{$s}", "{{model}} running"),
                ("dragoman_waiting_sequences{$s}", "{{model}} waiting"),
            ),
        ),
        Panel(
            "KV cells",
            "short",
            (
                ("dragoman_kv_cache_used_cells{$s}", "{{model}} running"),
                ("dragoman_kv_cache_prefix_cells{$s}", "{{model}} prefixes"),
                ("dragoman_kv_cache_capacity_cells{$s}", "{{model}} all"),
            ),
        ),
        Panel(
            "Drafted tokens",
            "short",
            (
                ("sum by (model) (rate(dragoman_drafted_tokens_total{$s}[$r]))", "{{model}} drafted"),
                ("sum by (model) (rate(dragoman_accepted_draft_tokens_total{$s}[$r]))", "{{model}} accepted"),
            ),
        ),
        Panel(
            "Prefixes from disk",
            "short",
            (
                ("sum by (model) (rate(dragoman_saved_prefix_hits_total{$s}[$r]))", "{{model}} requests"),
                ("sum by (model) (rate(dragoman_saved_prefix_tokens_total{$s}[$r]))", "{{model}} tokens"),
                ("sum by (model) (rate(dragoman_saved_prefix_evictions_total{$s}[$r]))", "{{model}} evicted"),
            ),
        ),
        Panel("Prefixes on disk", "bytes", (("dragoman_saved_prefix_bytes{$s}", "{{model}}"),)),
        Panel(
            "State",
            "short",
            (("dragoman_engine_up{$s}", "{{model}} answers"), ("dragoman_engine_failed{$s}", "{{model}} cannot load")),
        ),
    ),
    "Upstreams": (
        Panel(
            "Answers and failed attempts",
            "short",
            (
                (
                    "sum by (upstream, outcome) (rate(dragoman_upstream_requests_total{$s}[$r]))",
                    "{{upstream}} {{outcome}}",
                ),
                (
                    "sum by (upstream, reason) (rate(dragoman_upstream_attempts_total{$s}[$r]))",
                    "{{upstream}} not begun, {{reason}}",
                ),
                (
                    "sum by (upstream) (rate(dragoman_upstream_ejections_total{$s}[$r]))",
                    "{{upstream}} ejected",
                ),
                ("sum by (upstream) (rate(dragoman_upstream_hedges_total{$s}[$r]))", "{{upstream}} hedges"),
            ),
        ),
        Panel(
            "Time to first token",
            "s",
            (
                (
                    "histogram_quantile(0.95, sum by (upstream, le)"
                    " (rate(dragoman_upstream_first_token_seconds_bucket{$s}[$r])))",
                    "{{upstream}} p95",
                ),
            ),
        ),
        Panel(
            "State",
            "short",
            (
                ("sum by (upstream) (dragoman_upstream_in_flight{$s})", "{{upstream}} in flight"),
                ("max by (upstream) (dragoman_upstream_ejected{$s})", "{{upstream}} left out"),
                ("min by (model) (dragoman_upstream_retry_budget{$s})", "{{model}} retries left"),
            ),
        ),
    ),
    "Upstreams' tokens": (
        Panel(
            "Prompt tokens known to be cached",
            "short",
            (("sum by (upstream) (rate(dragoman_upstream_prefix_hit_tokens_total{$s}[$r]))", "{{upstream}}"),),
        ),
        Panel(
            "Answers, by who counted",
            "short",
            (
                (
                    "sum by (model, source) (rate(dragoman_upstream_usage_source_total{$s}[$r]))",
                    "{{model}} {{source}}",
                ),
            ),
        ),
    ),
    "Queue": (
        Panel(
            "Jobs",
            "short",
            (
                ("max by (model) (dragoman_queue_jobs_waiting{$s})", "{{model}} waiting"),
                ("max by (model) (dragoman_queue_jobs_running{$s})", "{{model}} running"),
            ),
        ),
        Panel("Oldest job", "s", (("max by (model) (dragoman_queue_oldest_job_age_seconds{$s})", _BY_MODEL),)),
        Panel(
            "Attempts",
            "short",
            (
                ("sum by (model, result) (rate(dragoman_job_attempts_total{$s}[$r]))", "{{model}} {{result}}"),
                ('sum by (result) (rate(dragoman_webhook_attempts_total{job=~"$job"}[$r]))', "webhook {{result}}"),
            ),
        ),
    ),
    "Ledger": (
        Panel(
            "Time to an answer",
            "s",
            tuple(
                (
                    f"histogram_quantile({q}, sum by (instance, le)"
                    f" (rate(dragoman_ledger_answer_seconds_bucket{_SERVERS}[$r])))",
                    f"{{{{instance}}}} p{q * 100:g}",
                )
                for q in (0.5, 0.95, 0.99)
            ),
        ),
        Panel(
            "Operations and failures",
            "short",
            (
                (f"dragoman_ledger_pending_operations{_SERVERS}", "{{instance}} pending"),
                (
                    f"sum by (instance, reason) (rate(dragoman_ledger_failures_total{_SERVERS}[$r]))",
                    "{{instance}} {{reason}} failed",
                ),
            ),
        ),
        Panel(
            "State of the database",
            "short",
            (
                (f"dragoman_database_up{_SERVERS}", "{{instance}} answers"),
                (
                    f"time() - dragoman_ledger_last_answer_timestamp_seconds{_SERVERS}",
                    "{{instance}} seconds since an answer",
                ),
            ),
        ),
    ),
    "Process": (
        Panel("Reloads of the settings", "short", (('dragoman_settings_generation{job=~"$job"}', "{{instance}}"),)),
        Panel(
            "Time until the certificate expires",
            "s",
            (('dragoman_certificate_expiry_timestamp_seconds{job=~"$job"} - time()', "{{instance}}"),),
        ),
        Panel(
            "Free disk space",
            "percentunit",
            (
                (
                    f"dragoman_disk_free_bytes{_SERVERS} / dragoman_disk_size_bytes{_SERVERS}",
                    "{{instance}} {{folder}}",
                ),
            ),
        ),
    ),
}


def board() -> dict[str, Any]:
    """Return the dashboard in Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        position = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
        panels.append({"type": "row", "title": title, "collapsed": False, "gridPos": position, "panels": []})
        for number, panel in enumerate(row):
            line, column = divmod(number, _COLUMNS // _WIDTH)
            panels.append(_panel(panel, column * _WIDTH, top + 1 + line * _HEIGHT))
        top += 1 + _HEIGHT * -(-len(row) * _WIDTH // _COLUMNS)
    numbered = [{"id": number, **panel} for number, panel in enumerate(panels, 1)]
    return {
        "__inputs": [
            {"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus"},
        ],
        "__requires": [{"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"}],
        "uid": "dragoman",
        "title": "dragoman",
        "tags": ["llm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "templating": {"list": [_variable(label) for label in ("job", "instance", "model")]},
        "panels": numbered,
    }


def _variable(label: str) -> dict[str, Any]:
    query = f"label_values(dragoman_engine_up, {label})"
    return {
        "name": label,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": label},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(panel: Panel, left: int, top: int) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": _SOURCE,
            "legendFormat": legend,
            "expr": expression.replace("$s", _SELECTOR).replace("$r", "$__rate_interval"),
            "format": "heatmap" if panel.kind == "heatmap" else "time_series",
        }
        for number, (expression, legend) in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "datasource": _SOURCE,
        "targets": targets,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": left, "y": top},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {} if panel.kind == "heatmap" else {"tooltip": {"mode": "multi", "sort": "desc"}},
    }


def main() -> int:
    """Write the dashboard, or check it. Return the process's exit status."""
    BOARD.touch()
    return write_or_check(BOARD, lambda _: json.dumps(board(), indent=2) + "\n", "tools.grafana_board")


if __name__ == "__main__":
    sys.exit(main())
