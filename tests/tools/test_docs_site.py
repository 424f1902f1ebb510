"""The web site of the documents."""

import tomllib

from tools.docs_site import DOCS, REPOSITORY, configuration, llms_txt, staged

INDEX = (DOCS / "index.md").read_text(encoding="utf-8")


def test_the_index_and_llms_txt_name_every_document() -> None:
    documents = {path.name for path in DOCS.glob("*.md")} - {"index.md"}
    listed = llms_txt(INDEX)
    assert [name for name in sorted(documents) if f"]({name}): " not in listed] == []


def test_the_navigation_has_the_order_of_the_index() -> None:
    navigation = tomllib.loads(configuration(INDEX))["project"]["nav"]
    assert [title for entry in navigation for title in entry] == ["Documents", "Use it", "Run it", "Change it"]
    assert navigation[1]["Use it"][0] == {"Quickstart": "quickstart.md"}


def test_links_out_of_the_documents_lead_to_the_repository() -> None:
    text = "[a](../deploy/systemd) [b](queue.md#order) [c](https://example.com)"
    assert staged(text) == f"[a]({REPOSITORY}/deploy/systemd) [b](queue.md#order) [c](https://example.com)"
