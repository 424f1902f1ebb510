"""Packs the official JSON-Schema-Test-Suite into tests/data/json_schema_test_suite.json.xz.

.venv/bin/python -m tools.schema_suite FOLDER     # FOLDER holds tests/draft7/ and the like

The suite (MIT, Julian Berman, https://github.com/json-schema-org/JSON-Schema-Test-Suite) also lies in the source
distribution of the package jsonschema, in the folder json/. Only its required tests are taken, not optional/.
"""

import json
import lzma
import sys
from pathlib import Path
from typing import Any

DRAFTS = {
    "4": "http://json-schema.org/draft-04/schema#",
    "6": "http://json-schema.org/draft-06/schema#",
    "7": "http://json-schema.org/draft-07/schema#",
    "2019-09": "https://json-schema.org/draft/2019-09/schema",
    "2020-12": "https://json-schema.org/draft/2020-12/schema",
}
"""Draft → the URI of its metaschema, the value of `$schema`."""

PACKED = Path(__file__).parent.parent / "tests" / "data" / "json_schema_test_suite.json.xz"


def pack(folder: Path) -> list[dict[str, Any]]:
    """Return all groups of tests, each once with the drafts that have it.

    Each is {"file", "drafts", "description", "schema", "tests": [{"description", "data", "valid"}]}. A `$schema`
    that only repeats the draft is removed from the schemas.
    """
    groups: dict[str, dict[str, Any]] = {}
    for draft, metaschema in DRAFTS.items():
        for file in sorted((folder / "tests" / f"draft{draft}").glob("*.json")):
            for group in json.loads(file.read_text(encoding="utf-8")):
                schema = group["schema"]
                if isinstance(schema, dict) and schema.get("$schema") == metaschema:
                    del schema["$schema"]
                entry = {"file": file.stem, "description": group["description"], "schema": schema}
                entry["tests"] = [
                    {key: test[key] for key in ("description", "data", "valid")} for test in group["tests"]
                ]
                groups.setdefault(json.dumps(entry), {**entry, "drafts": []})["drafts"].append(draft)
    return list(groups.values())


def unpack() -> list[dict[str, Any]]:
    """Return the groups of the packed suite."""
    groups: list[dict[str, Any]] = json.loads(lzma.decompress(PACKED.read_bytes()))
    return groups


def schema_for_draft(group: dict[str, Any], draft: str) -> Any:
    """Return the schema of a group with the `$schema` of one draft."""
    schema = group["schema"]
    return {"$schema": DRAFTS[draft], **schema} if isinstance(schema, dict) else schema


def main() -> int:
    """Pack the folder named on the command line. Return the process's exit status."""
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "tests").is_dir():
        print("usage: python -m tools.schema_suite FOLDER (one that holds tests/draft7/)", file=sys.stderr)
        return 2
    text = json.dumps(pack(Path(sys.argv[1])), separators=(",", ":"))
    PACKED.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    return 0


if __name__ == "__main__":
    sys.exit(main())
