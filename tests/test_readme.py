"""What the README shows works as it stands there."""

import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from dragoman.server.settings_loading import load_settings
from tests.support.server import RunningServer
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

README = Path(__file__).parent.parent.joinpath("README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
CURLS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("curl ")]


@pytest.mark.parametrize("command", CURLS)
def test_each_curl_of_the_readme_is_answered(command: str, model_server: RunningServer) -> None:
    local = command.replace("http://127.0.0.1:8000", model_server.url)
    result = subprocess.run(
        ["bash", "-c", local], capture_output=True, text=True, timeout=TEST_TIMEOUT_SECONDS, check=True
    )
    assert isinstance(msgspec.json.decode(result.stdout), dict)
    assert "The capital of France is Paris." in result.stdout


@pytest.mark.parametrize("path", ["/v1/", "/smollm2-135m-instruct/v1/", "/empower/", "/api/v1/", "/v4/"])
def test_the_readme_has_a_curl_for_each_dialect(path: str) -> None:
    assert any(f":8000{path}" in command for command in CURLS)


def test_the_settings_of_the_readme_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "dragoman.toml"
    first, second, third, fourth = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    file.write_text(first)
    settings = load_settings(file, {}, {})
    assert (settings.port, settings.workers) == (8080, 2)
    file.write_text(second)
    settings = load_settings(file, {}, {})
    assert (len(settings.deployments), len(settings.keys)) == (2, 1)
    file.write_text(third)
    settings = load_settings(file, {}, {})
    assert (settings.accounts.database, len(settings.admin.keys)) == ("sqlite", 1)
    file.write_text(fourth)
    settings = load_settings(file, {}, {})
    assert (settings.adapters[0].name, settings.adapter_dir) == ("pirate", "adapters")


def test_every_link_in_the_documents_resolves() -> None:
    root = Path(__file__).parent.parent
    for document in [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("benchmarks/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert document.parent.joinpath(target).exists(), f"{document.name}: {target}"
