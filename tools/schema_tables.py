"""Generates the table of docs/structured-output.md: how much of the official JSON-Schema-Test-Suite is enforced.

.venv/bin/python -m tools.schema_tables           # writes it
.venv/bin/python -m tools.schema_tables --check   # fails if it is not up to date
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dragoman.core.errors import BadRequest
from dragoman.core.request import JsonSchemaFormat
from dragoman.output.grammar import build_grammar
from tests.support.grammars import allows
from tools.generated import replace_part, write_or_check
from tools.schema_suite import DRAFTS, schema_for_draft, unpack

DOCUMENT = Path(__file__).parent.parent / "docs" / "structured-output.md"
BEGIN = "<!-- made by tools/schema_tables.py from here -->"
END = "<!-- to here -->"


def updated(document: str) -> str:
    """Return the document with a current table between its marks."""
    return replace_part(document, BEGIN, END, "\n".join([*_table(), ""]))


class SuiteCounts:
    """Counts of the schemas and documents of one kind."""

    def __init__(self) -> None:
        self.schemas: Counter[str] = Counter()
        """By draft."""
        self.enforced: Counter[str] = Counter()
        self.documents: Counter[tuple[bool, bool]] = Counter()
        """Of enforced schemas: (whether valid, whether allowed) → how many."""


def _count_by_file() -> dict[str, SuiteCounts]:
    """Return the counts by the suite's files, which are named after keywords."""
    counts: dict[str, SuiteCounts] = {}
    for group in unpack():
        count = counts.setdefault(group["file"], SuiteCounts())
        for draft in group["drafts"]:
            count.schemas[draft] += 1
            try:
                grammar = build_grammar(
                    JsonSchemaFormat(schema_for_draft(group, draft), strict=True), None, None, lambda _: None
                ).text
            except BadRequest:
                continue
            assert grammar is not None
            count.enforced[draft] += 1
            for test in group["tests"]:
                document = json.dumps(test["data"], ensure_ascii=False)
                count.documents[test["valid"], allows(grammar, document)] += 1
    return counts


def _table() -> Iterator[str]:
    counts = _count_by_file()
    documents = sum((count.documents for count in counts.values()), Counter[tuple[bool, bool]]())
    schemas = sum(count.schemas.total() for count in counts.values())
    enforced = sum(count.enforced.total() for count in counts.values())
    invalid = documents[False, False] + documents[False, True]
    yield f"Of its {schemas:,} schemas, {enforced:,} are enforced and the others refused. Of the documents that come"
    yield f"with the enforced ones, {documents[False, False]:,} of {invalid:,} invalid ones cannot be generated;"
    yield f"{documents[True, True]:,} of {documents[True, True] + documents[True, False]:,} valid ones can.\n"
    yield f"| file | {' | '.join(f'draft {draft}' for draft in DRAFTS)} | valid documents that cannot be generated |"
    yield f"|---|{'---|' * len(DRAFTS)}---|"
    for file, count in sorted(counts.items()):
        cells = [
            f"{count.enforced[draft]} of {count.schemas[draft]}" if count.schemas[draft] else "-" for draft in DRAFTS
        ]
        yield f"| {file} | {' | '.join(cells)} | {count.documents[True, False] or '-'} |"


def main() -> int:
    """Write the table, or check it. Return the process's exit status."""
    return write_or_check(DOCUMENT, updated, "tools.schema_tables")


if __name__ == "__main__":
    sys.exit(main())
