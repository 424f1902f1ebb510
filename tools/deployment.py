"""Checks the files of deploy/, the Dockerfile and compose.yaml with the tools of their makers; nothing is started.

make check-deployment    # installs requirements/deployment.txt into an environment of its own

hadolint reads the Dockerfile, Helm's library lints and renders the chart with several values, whose manifests are
compared with the schemas of Kubernetes, and compose.yaml with the Compose specification.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml
from compose_spec import PyCompose

ROOT = Path(__file__).parent.parent
CHART = ROOT / "deploy" / "helm" / "dragoman"

KUBERNETES_VERSIONS = ("1.27", "1.31", "1.34")
_ERROR = 3
"""Helm's severity of a message that makes a chart unusable."""

_EVERYTHING: dict[str, Any] = {
    "replicaCount": 2,
    "database": {"existingSecret": "database"},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "host": "llm.example.com",
        "tlsSecret": "certificate",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-buffering": "off"},
    },
    "podDisruptionBudget": {"enabled": True},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "bearerTokenSecret": "metrics"},
    "networkPolicy": {"enabled": True, "from": [{"podSelector": {}}]},
    "resources": {"limits": {"memory": "4Gi"}},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "models", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "podAnnotations": {"team": "models"},
    "imagePullSecrets": [{"name": "registry"}],
    "extraEnv": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
    "extraVolumes": [{"name": "models", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "models", "mountPath": "/models"}],
}
VALUES: tuple[dict[str, Any], ...] = (
    {},
    _EVERYTHING,
    {"apiKey": {"existingSecret": "key"}, "persistence": {"enabled": False}},
    {"persistence": {"existingClaim": "models"}},
)
REFUSED_VALUES: tuple[dict[str, Any], ...] = (
    {"image": {"tag": "latest"}},
    {"replicas": 2},  # The name is replicaCount.
    {"replicaCount": 2},  # On SQLite.
    {"autoscaling": {"enabled": True}},  # On SQLite.
    {"apiKey": {"existingSecret": "key"}, "database": {"existingSecret": "database"}},
)

_WITHOUT_SCHEMA = frozenset({"ServiceMonitor"})
"""Kinds that Kubernetes does not define itself."""


def chart_problems() -> Iterator[str]:
    """Yield what is wrong with the chart."""
    for message in helm_python.lint(CHART)["messages"]:
        if message["severity"] >= _ERROR:
            yield f"chart: {message['error']}"
    with helm_python.Chart.load(CHART) as chart:
        for values in VALUES:
            for name, text in chart.render(values=values, name="test", namespace="llm").items():
                if not name.endswith(".txt"):
                    yield from _manifest_problems(name, text)
        for values in REFUSED_VALUES:
            try:
                chart.validate_schema(values)
                chart.render(values=values, name="test")
            except helm_python.HelmError:
                continue
            yield f"chart: the values {values} are not refused"


def _manifest_problems(name: str, text: str) -> Iterator[str]:
    for manifest in yaml.safe_load_all(text):
        if manifest is None or manifest["kind"] in _WITHOUT_SCHEMA:
            continue
        for version in KUBERNETES_VERSIONS:
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name}, Kubernetes {version}: {error.message}"


def compose_problems() -> Iterator[str]:
    """Yield what is wrong with compose.yaml."""
    try:
        PyCompose.from_yaml((ROOT / "compose.yaml").read_text(encoding="utf-8")).validate()
    except ValueError as error:
        yield f"compose.yaml: {error}"


def main() -> int:
    """Check all and print what is wrong. Return the process's exit status."""
    hadolint = subprocess.run(["hadolint", ROOT / "Dockerfile"], check=False)
    problems = [*chart_problems(), *compose_problems()]
    print("\n".join(problems or ["the chart and compose.yaml are valid"]))
    return 1 if problems or hadolint.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
