"""What the README shows works as it stands there."""

import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from dragoman.server.settings import load_settings
from tests.support.server import RunningServer

README = Path(__file__).parent.parent.joinpath("README.md").read_text()
CURLS = [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if block.startswith("curl ")]


@pytest.mark.parametrize("command", CURLS)
def test_each_curl_of_the_readme_is_answered(command: str, model_server: RunningServer) -> None:
    local = command.replace("http://127.0.0.1:8000", model_server.url)
    result = subprocess.run(["bash", "-c", local], capture_output=True, text=True, timeout=60, check=True)
    answer = msgspec.json.decode(result.stdout)
    assert "Paris" in answer["choices"][0]["message"]["content"]


def test_the_readme_has_a_curl() -> None:
    assert CURLS


def test_the_settings_of_the_readme_are_accepted(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "dragoman.toml"
    file.write_text(example)
    settings = load_settings(file, {}, {})
    assert settings.port == 8080
    assert settings.workers == 2


def test_every_link_of_the_documents_leads_to_a_file() -> None:
    root = Path(__file__).parent.parent
    for document in [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("benchmarks/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert document.parent.joinpath(target).exists(), f"{document.name}: {target}"
