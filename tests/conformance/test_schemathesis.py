"""Requests made up from the OpenAPI document, right and wrong ones: no 5xx, and no status that is not in it."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def body_fields(openapi: Mapping[str, Any], operation: Operation) -> set[tuple[str, str]]:
    """Return the names and schemas of the fields of a route's body."""
    schema = openapi["paths"][operation.path][operation.method.lower()]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    while "$ref" in schema:
        schema = openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return {(name, json.dumps(field, sort_keys=True)) for name, field in schema["properties"].items()}


def without_coverage(openapi: Mapping[str, Any], kinds: Mapping[str, Sequence[Operation]]) -> str:
    """Return schemathesis's settings that try only the example of a route whose body has no field of its own."""
    seen: set[tuple[str, str]] = set()
    lines: list[str] = []
    for operation in (each for operations in kinds.values() for each in operations):
        if operation.request is None:
            continue
        fields = body_fields(openapi, operation)
        if fields <= seen:
            lines += ["[[operations]]", f'include-path = "{operation.path}"', "phases.coverage.enabled = false"]
        seen |= fields
    return "\n".join(lines)


def test_every_kind_of_operation_conforms_to_the_openapi_document(tmp_path: Path) -> None:
    settings, file = tmp_path / "dragoman.toml", tmp_path / "openapi.json"
    settings.write_text(f'[[keys]]\nname = "fuzzer"\nkey = "{KEY}"\n')
    kinds = one_of_each_kind()
    openapi = document(kinds, "echo", DocumentedFeatures(queue=True))
    file.write_text(json.dumps(openapi))
    (tmp_path / "schemathesis.toml").write_text(without_coverage(openapi, kinds))
    # The command, because pytest collects its tests in seconds, once in each process of a run.
    with running_server("echo", "--config", str(settings)) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", str(file), "--url", server.url]
        options = ["--checks", CHECKS, "--phases", "examples,coverage"]
        quiet = ["--suppress-health-check", "all", "--warnings", "off", "--no-color", "--generation-database", "none"]
        header = ["--header", f"Authorization: Bearer {KEY}"]
        run = subprocess.run([*command, *options, *quiet, *header], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " generated, " in run.stdout
