"""OpenTelemetry's variables, as far as they say whether traces are exported."""

import importlib.util
from collections.abc import Mapping

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class TracingUnavailable(Exception):
    """Traces are to be exported and cannot be. The message is one line for people."""


def exports_traces(environment: Mapping[str, str]) -> bool:
    """Whether traces are exported. Raises TracingUnavailable if the extra is not installed."""
    wanted = any(environment.get(variable) for variable in ENDPOINT_VARIABLES)
    if not wanted or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    if not _has_exporter():
        raise TracingUnavailable(f"{ENDPOINT_VARIABLES[1]} is set: install the extra otel, or unset it")
    return True


def _has_exporter() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # A package around it is missing.
        return False
