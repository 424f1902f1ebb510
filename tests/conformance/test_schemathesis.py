"""Requests made up from the OpenAPI document, right and wrong ones: no 5xx, and no status that is not in it."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dragoman.dialects.http.operation import Operation
from dragoman.server.dialects import OPERATIONS
from dragoman.server.openapi import DocumentedFeatures, document
from tests.support.server import running_server

KEY = "sk-0123456789abcdef"

CHECKS = "not_a_server_error,status_code_conformance,response_schema_conformance"


def one_of_each_kind() -> Mapping[str, Sequence[Operation]]:
    """Return one route of those that differ in their prefix only."""
    return {
        dialect: list({(each.method, each.request, each.query, each.response): each for each in operations}.values())
        for dialect, operations in OPERATIONS.items()
    }


def without_coverage(kinds: Mapping[str, Sequence[Operation]]) -> str:
    """Return schemathesis's settings that try only the example of a route whose body another one has already."""
    seen: set[type[object]] = set()
    lines: list[str] = []
    for operation in (each for operations in kinds.values() for each in operations):
        if operation.request is None:
            continue
        if operation.request in seen:
            lines += ["[[operations]]", f'include-path = "{operation.path}"', "phases.coverage.enabled = false"]
        seen.add(operation.request)
    return "\n".join(lines)


def test_every_kind_of_operation_conforms_to_the_openapi_document(tmp_path: Path) -> None:
    settings, openapi = tmp_path / "dragoman.toml", tmp_path / "openapi.json"
    settings.write_text(f'[[keys]]\nname = "fuzzer"\nkey = "{KEY}"\n')
    openapi.write_text(json.dumps(document(one_of_each_kind(), "echo", DocumentedFeatures(queue=True))))
    (tmp_path / "schemathesis.toml").write_text(without_coverage(one_of_each_kind()))
    # The command, because pytest collects its tests in seconds, once in each process of a run.
    with running_server("echo", "--config", str(settings)) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", str(openapi), "--url", server.url]
        options = ["--checks", CHECKS, "--phases", "examples,coverage"]
        quiet = ["--suppress-health-check", "all", "--warnings", "off", "--no-color", "--generation-database", "none"]
        header = ["--header", f"Authorization: Bearer {KEY}"]
        run = subprocess.run([*command, *options, *quiet, *header], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " generated, " in run.stdout
