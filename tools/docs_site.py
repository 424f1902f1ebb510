"""Builds the documents as a web site in site/, with Zensical.

make docs    # installs requirements/docs.txt into an environment of its own

The documents stay plain Markdown that reads well on a forge. Links to files of the project outside of docs/ lead to its
repository. Each page's Markdown stands beside it, and llms.txt lists them (https://llmstxt.org/).
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SITE = ROOT / "site"
REPOSITORY = "https://github.com/OWNER/dragoman/blob/main"

_OUTWARD_LINK = re.compile(r"\]\(\.\./([^)\s]+)\)")
_INDEX_ENTRY = re.compile(r"^\| \[(?P<title>[^\]]+)\]\((?P<page>[\w-]+\.md)\) \| (?P<question>.+?) \|$", re.MULTILINE)
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)


def staged(text: str) -> str:
    """Return a document with the repository's addresses in place of links that leave docs/."""
    return _OUTWARD_LINK.sub(rf"]({REPOSITORY}/\1)", text)


def sections(index: str) -> Iterator[tuple[str, list[re.Match[str]]]]:
    """Yield the headings of docs/index.md and the pages below each."""
    _, *parts = _SECTION.split(index)
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        yield title, list(_INDEX_ENTRY.finditer(body))


def llms_txt(index: str) -> str:
    """Return the list of all pages for language models."""
    lines = ["# dragoman", "", "> A self-hosted, OpenAI-compatible LLM API server that meters every token.", ""]
    for title, pages in sections(index):
        lines += [
            f"## {title}",
            "",
            *(f"- [{page['title']}]({page['page']}): {page['question']}" for page in pages),
            "",
        ]
    return "\n".join(lines)


def configuration(index: str) -> str:
    """Return Zensical's configuration, with the pages in the order of docs/index.md."""
    navigation = [f'{{ "{title}" = [{_pages(pages)}] }}' for title, pages in sections(index)]
    return "\n".join(
        [
            "[project]",
            'site_name = "dragoman"',
            'docs_dir = "docs"',
            'site_dir = "site"',
            f"nav = [{', '.join(['{ Documents = ' + chr(34) + 'index.md' + chr(34) + ' }', *navigation])}]",
            "[project.theme]",
            'variant = "classic"',
            "font = false",  # No font comes from another site.
            "",
        ]
    )


def _pages(pages: list[re.Match[str]]) -> str:
    return ", ".join(f'{{ "{page["title"]}" = "{page["page"]}" }}' for page in pages)


def build() -> None:
    """Build the site. Raises CalledProcessError if Zensical finds a mistake."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        docs, site = Path(folder, "docs"), Path(folder, "site")
        docs.mkdir()
        for document in DOCS.glob("*.md"):
            (docs / document.name).write_text(staged(document.read_text(encoding="utf-8")), encoding="utf-8")
        (Path(folder) / "zensical.toml").write_text(configuration(index), encoding="utf-8")
        subprocess.run(["zensical", "build", "--strict"], cwd=folder, check=True)
        for document in docs.glob("*.md"):
            shutil.copy(document, site)
        (site / "llms.txt").write_text(llms_txt(index), encoding="utf-8")
        shutil.rmtree(SITE, ignore_errors=True)
        shutil.copytree(site, SITE)


def main() -> int:
    """Build the site. Return the process's exit status."""
    build()
    print(f"{sum(1 for _ in SITE.rglob('*.html'))} pages are in {SITE.name}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
