"""Find adapter files: in a folder of this machine, or in the Hugging Face cache."""

import asyncio
from pathlib import Path, PurePosixPath

from dragoman.core.adapters import AdapterSource
from dragoman.core.errors import AdapterMissing, BadRequest
from dragoman.engines.base import AdapterFile
from dragoman.engines.llama.weights.gguf_files import ModelSourceError, choose_model_file, find_models, reject_peft
from dragoman.engines.llama.weights.gguf_metadata import read_text_metadata
from dragoman.engines.llama.weights.sources import HUB_REFERENCE

_HUB_URL = "https://huggingface.co/"


def read_adapter(path: Path) -> AdapterFile:
    """Read the metadata of an adapter file. Raises ModelSourceError when it is not an adapter."""
    if path.suffix == ".safetensors":
        reject_peft(path.name, [path.name, "adapter_model.safetensors"])
    metadata = dict(read_text_metadata(path))
    kind = metadata.get("general.type")
    if kind != "adapter" or metadata.get("adapter.type") != "lora":
        raise ModelSourceError(f"{path.name} is no LoRA adapter: its general.type is {kind!r}")
    names = ("name", "repo_url")
    found = [metadata.get(f"general.base_model.{number}.{name}") for number in range(len(metadata)) for name in names]
    bases = tuple(name.removeprefix(_HUB_URL) for name in found if name)
    return AdapterFile(path, metadata.get("general.architecture", ""), bases)


def resolve_adapter(reference: str, *, progress: bool) -> tuple[AdapterSource, AdapterFile]:
    """Find an adapter of the settings: a file, or `owner/name[:FILE]` of the hub. Raises ModelSourceError."""
    path = Path(reference).expanduser()
    hub_reference = HUB_REFERENCE.fullmatch(reference)
    if path.exists() or hub_reference is None or path.suffix in (".gguf", ".safetensors"):
        if path.is_dir():
            reject_peft(str(path), [file.name for file in path.iterdir()])
        if not path.is_file():
            raise ModelSourceError(f"there is no adapter file {path}")
        return AdapterSource("local", path.name), read_adapter(path)
    # Imported only here and below, since the import is slow.
    from dragoman.engines.llama.weights import hub

    found = hub.fetch(hub_reference["repository"], hub_reference["wanted"], progress=progress)
    return AdapterSource("hub", reference), read_adapter(found)


class LocalAdapterStore:
    """Implements engines.base.AdapterStore: a folder, and the Hugging Face cache, to which downloads may be added."""

    def __init__(self, folder: Path | None, *, downloads: bool) -> None:
        """`folder`: None allows no adapter from files of this machine."""
        self._folder = folder
        self._downloads = downloads
        self._lock = asyncio.Lock()

    async def find(self, source: AdapterSource, token: str | None) -> AdapterFile:
        async with self._lock:
            try:
                return await asyncio.to_thread(self._find, source, token)
            except ModelSourceError as error:
                raise BadRequest(str(error), "model_name") from error

    def _find(self, source: AdapterSource, token: str | None) -> AdapterFile:
        return read_adapter(self._local(source.name) if source.kind == "local" else self._from_hub(source, token))

    def _local(self, name: str) -> Path:
        if self._folder is None:
            raise AdapterMissing("Adapters of the source LOCAL are not served: the server has no adapter_dir")
        try:
            folder = self._folder.resolve(strict=True)
            requested = folder / name
            path = _resolve_inside(folder, requested if requested.exists() else folder / f"{name}.gguf")
            if path.is_dir():
                path = _resolve_inside(folder, path / _find_only_adapter(name, path))
        except (OSError, RuntimeError, ValueError):  # missing, a loop of links, or an invalid file name
            raise AdapterMissing(f"Model '{name}' is not in the adapter folder") from None
        return path

    def _from_hub(self, source: AdapterSource, token: str | None) -> Path:
        from dragoman.engines.llama.weights import hub

        reference = HUB_REFERENCE.fullmatch(source.name)
        if reference is None:
            raise ModelSourceError(f"'{source.name}' is no repository; give owner/name or owner/name:FILE")
        repository, wanted = reference["repository"], reference["wanted"]
        if self._downloads:
            # The token in the environment belongs to the operator: clients get access by their own tokens only.
            return hub.fetch(repository, wanted, progress=False, revision=source.revision, token=token or False)
        files = hub.cached_files(source.revision).get(repository)
        if not files:
            raise AdapterMissing(f"Model '{source.name}' is not in the local store and downloads are disabled")
        return files[choose_model_file(repository, files, wanted)]


def _resolve_inside(folder: Path, path: Path) -> Path:
    """Resolve all links. Raises ValueError when the path leads out of the folder, OSError when it does not exist."""
    if ".." in path.parts:
        raise ValueError(path)
    real = path.resolve(strict=True)
    if not real.is_relative_to(folder):
        raise ValueError(path)
    return real


def _find_only_adapter(name: str, directory: Path) -> str:
    names = [file.name for file in directory.iterdir()]
    found = find_models(names)
    if not found:
        reject_peft(name, names)
    if len(found) != 1:
        raise ModelSourceError(f"{name} holds {len(found)} .gguf files; name one as {PurePosixPath(name) / 'FILE'}")
    return found[0]
