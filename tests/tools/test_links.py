"""The check of links between documents."""

from pathlib import Path

from tools.links import ROOT, anchors, broken_links, links


def test_no_link_of_the_project_is_broken() -> None:
    assert list(broken_links(ROOT)) == []


def test_missing_files_and_headings_are_found_and_other_sites_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# One\n[a](docs/b.md#two-words) [b](docs/c.md) [c](#one) [d](https://x/y.md)")
    (tmp_path / "docs" / "b.md").write_text("## Two `words`\n[e](../README.md#two) [f](b.md)")
    assert list(broken_links(tmp_path)) == [
        "README.md: docs/c.md: there is no such file",
        "docs/b.md: ../README.md#two: there is no such heading",
    ]


def test_documents_that_other_files_name_are_looked_at(tmp_path: Path) -> None:
    for folder in ("docs", "deploy", "src"):
        (tmp_path / folder).mkdir()
    (tmp_path / "docs" / "a.md").write_text("# One\n## Two")
    (tmp_path / "deploy" / "b.conf").write_text("# docs/a.md#two and docs/a.md#three")
    (tmp_path / "src" / "c.py").write_text('"""See docs/a.md. https://x.example/docs/d.md, docs/e.md"""')
    (tmp_path / "compose.yaml").write_text("# docs/a.md#one")
    assert list(broken_links(tmp_path)) == [
        "deploy/b.conf: docs/a.md#three: there is no such heading",
        "src/c.py: docs/e.md: there is no such file",
    ]


def test_links_in_code_are_none() -> None:
    assert links("`[a](b)` [c](d)\n```\n[e](f)\n```\n[g](h)\n![i](j)") == ["d", "h"]


def test_equal_headings_have_numbered_anchors() -> None:
    assert anchors("# A & b\n## A & b\n### [Link](x) here\n```\n# no heading\n```\n") == {"a--b", "a--b-1", "link-here"}
