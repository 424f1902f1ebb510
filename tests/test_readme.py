"""Check that what README and the guides show works exactly as written."""

import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from dragoman.server.settings import Settings
from dragoman.server.settings_loading import load_settings
from dragoman.server.start_checks import check_settings
from tests.support.server import RunningServer
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

ROOT = Path(__file__).parent.parent
GUIDES = [ROOT / "README.md", *(ROOT / "docs" / name for name in ("quickstart.md", "models.md", "clients.md"))]

README_LINES = 150


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.DOTALL)


CURLS = [
    pytest.param(line, id=f"{document.name}-{number}")
    for document in GUIDES
    for number, line in enumerate(line for block in blocks(document, "sh") for line in block.splitlines())
    if line.startswith("curl ")
]


@pytest.mark.parametrize("command", CURLS)
def test_each_curl_of_the_guides_is_answered(command: str, model_server: RunningServer) -> None:
    local = command.replace("http://127.0.0.1:8000", model_server.url)
    result = subprocess.run(
        ["bash", "-c", local], capture_output=True, text=True, timeout=TEST_TIMEOUT_SECONDS, check=True
    )
    assert isinstance(msgspec.json.decode(result.stdout), dict)
    assert "The capital of France is Paris." in result.stdout


@pytest.mark.parametrize("path", ["/v1/", "/smollm2-135m-instruct/v1/", "/empower/", "/api/v1/", "/v4/"])
def test_the_guides_have_a_curl_for_each_dialect(path: str) -> None:
    assert any(f":8000{path}" in block for document in GUIDES for block in blocks(document, "sh"))


def settings_of(document: str, number: int, folder: Path) -> Settings:
    file = folder / "dragoman.toml"
    file.write_text(blocks(ROOT / document, "toml")[number])
    return load_settings(file, {"ADMIN_KEY": "sk-" + 16 * "a", "GPU1_KEY": "sk-gpu1"}, {})


def test_the_settings_of_the_guides_are_accepted(tmp_path: Path) -> None:
    settings = settings_of("README.md", 0, tmp_path)
    assert (settings.port, settings.workers) == (8080, 2)
    settings = settings_of("docs/models.md", 0, tmp_path)
    assert (len(settings.deployments), len(settings.keys)) == (2, 1)
    settings = settings_of("docs/quickstart.md", 0, tmp_path)
    assert (settings.accounts.database, len(settings.admin.keys)) == ("sqlite", 1)
    assert settings_of("docs/models.md", 1, tmp_path).engine.kv_cache_tokens == 8192
    settings = settings_of("docs/upstreams.md", 1, tmp_path)
    assert (settings.deployments[0].upstreams[0].kind, settings.host) == ("vllm", "0.0.0.0")
    check_settings(settings)
    settings = settings_of("docs/models.md", 2, tmp_path)
    assert (settings.adapters[0].name, settings.adapter_dir) == ("pirate", "adapters")


def test_every_link_in_the_documents_resolves() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]:
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", document.read_text()):
            place = document.parent / target if target else document
            assert place.exists(), f"{document.name}: {target}"
            if anchor and place.suffix == ".md":
                assert anchor in anchors(place), f"{document.name}: {target}#{anchor}"


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert [
        path.name for path in ROOT.glob("docs/*.md") if path.name != "index.md" and f"({path.name})" not in index
    ] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES
