"""Checks that every relative link in the project's Markdown leads to a file, and its anchor to a heading.

The same for documents that source files and those of deploy/ name.

.venv/bin/python -m tools.links    # prints every broken link, and fails if there is one
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*$", re.MULTILINE)
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1\s*?$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?:(?!\1).)+?\1")
_EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:")
_MENTION = re.compile(r"(?<![\w/.-])docs/[\w-]+\.md(?:#[\w-]+)?")


def documents(root: Path) -> list[Path]:
    """Return the Markdown files whose links are checked."""
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "benchmarks").glob("*.md")])


def naming_files(root: Path) -> list[Path]:
    """Return the other files that may name documents, by their paths below the root."""
    found = [*(root / "deploy").rglob("*"), *(root / "src").rglob("*.py"), root / "compose.yaml", root / "Dockerfile"]
    return sorted(path for path in found if path.is_file())


def links(text: str) -> list[str]:
    """Return the targets of the links in a document that are not in code."""
    return _LINK.findall(_CODE.sub("", _FENCE.sub("", text)))


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as forges make them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (unique := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(unique)
    return found


def broken_links(root: Path) -> Iterator[str]:
    """Yield a line for each broken link."""
    for document in documents(root):
        for target in links(document.read_text(encoding="utf-8")):
            if not _EXTERNAL.match(target):
                yield from _problem(root, document, target, document.parent)
    for file in naming_files(root):
        for target in _MENTION.findall(file.read_text(encoding="utf-8")):
            yield from _problem(root, file, target, root)


def _problem(root: Path, document: Path, target: str, folder: Path) -> Iterator[str]:
    path, _, anchor = target.partition("#")
    file = (folder / path).resolve() if path else document
    if not file.exists():
        yield f"{document.relative_to(root)}: {target}: there is no such file"
    elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
        yield f"{document.relative_to(root)}: {target}: there is no such heading"


def main() -> int:
    """Print what is broken. Return the process's exit status."""
    found = list(broken_links(ROOT))
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
