"""Find adapter files: in a folder of this machine, or in the Hugging Face cache."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path, PurePosixPath
from weakref import WeakValueDictionary

from dragoman.core.adapters import AdapterSource
from dragoman.core.errors import AdapterMissing, BadRequest, Overloaded
from dragoman.core.user_paths import user_path
from dragoman.engines.base import AdapterFile
from dragoman.engines.llama.weights.gguf_files import (
    ModelSourceError,
    choose_model_file,
    find_models,
    reject_peft,
    reject_undecodable,
    too_large,
)
from dragoman.engines.llama.weights.gguf_metadata import read_text_metadata
from dragoman.engines.llama.weights.sources import HUB_REFERENCE

DEFAULT_MAX_ADAPTER_BYTES = 2**30

_HUB_URL = "https://huggingface.co/"

_MAX_CONCURRENT_DOWNLOADS = 2
"""Downloads of all owners together. Each holds a thread."""

_MAX_ADAPTER_PARTS = 2**14
"""Tensors, and entries of the metadata; usual adapters have some hundred.

llama.cpp compares the name of each with those of all before it: this many take a second.
"""

_LOCK_RETRY_SECONDS = 0.1


def read_adapter(path: Path) -> AdapterFile:
    """Read the metadata of an adapter file. Raises ModelSourceError when it is not an adapter."""
    reject_undecodable(path)
    if path.suffix == ".safetensors":
        reject_peft(path.name, [path.name, "adapter_model.safetensors"])
    metadata = dict(read_text_metadata(path, max_parts=_MAX_ADAPTER_PARTS))
    kind = metadata.get("general.type")
    if kind != "adapter" or metadata.get("adapter.type") != "lora":
        raise ModelSourceError(f"{path.name} is no LoRA adapter: its general.type is {kind!r}")
    names = ("name", "repo_url")
    found = [metadata.get(f"general.base_model.{number}.{name}") for number in range(len(metadata)) for name in names]
    bases = tuple(name.removeprefix(_HUB_URL) for name in found if name)
    return AdapterFile(path, metadata.get("general.architecture", ""), bases)


def resolve_adapter(reference: str, *, progress: bool) -> tuple[AdapterSource, AdapterFile]:
    """Find an adapter of the settings: a file, or `owner/name[:FILE]` of the hub. Raises ModelSourceError."""
    path = user_path(reference)
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
    """Implements engines.base.AdapterStore: a folder, and the Hugging Face cache, to which downloads may be added.

    Downloads of an owner are stored apart from the cache: what one owner may read on the hub, another may not, and an
    owner's files are deleted with the last adapter made from them.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        downloads: bool,
        download_dir: Path | None = None,
        max_bytes: int = DEFAULT_MAX_ADAPTER_BYTES,
    ) -> None:
        """`folder`: None allows no adapter from files of this machine.

        `download_dir`: where owners' downloads are stored. None allows downloads to callers without an owner only.
        `max_bytes` is the limit for one adapter.
        """
        self._folder = folder
        self._downloads = downloads
        self._download_dir = download_dir
        self._max_bytes = max_bytes
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Locks of the owners. No owner waits for another's download."""
        self._download_slots = asyncio.Semaphore(_MAX_CONCURRENT_DOWNLOADS)

    @contextlib.asynccontextmanager
    async def registering(self, owner: str) -> AsyncIterator[None]:
        async with self._locks.setdefault(owner, asyncio.Lock()), contextlib.AsyncExitStack() as stack:
            if owner and self._downloads and self._download_dir is not None:
                try:
                    await stack.enter_async_context(_locked(self._download_dir / _folder_name(owner)))
                except OSError as error:
                    raise Overloaded(f"adapters cannot be stored: {error.strerror}", 60) from error
            yield

    async def find(
        self, source: AdapterSource, token: str | None, *, owner: str = "", registered: Collection[AdapterSource] = ()
    ) -> AdapterFile:
        may_download = self._downloads and source.kind == "hub"
        slot: AbstractAsyncContextManager[None] = self._download_slots if may_download else contextlib.nullcontext()
        async with slot:
            try:
                return await asyncio.to_thread(self._find, source, token, owner, registered)
            except ModelSourceError as error:
                raise BadRequest(str(error), "model_name") from error

    def _find(
        self, source: AdapterSource, token: str | None, owner: str, registered: Collection[AdapterSource]
    ) -> AdapterFile:
        if source.kind == "local":
            path = self._local(source.name)
        elif owner and self._downloads and self._download_dir is not None:
            path = self._download_for(owner, source, token, registered, self._download_dir)
        else:
            path = self._from_hub(source, token, may_download=self._downloads and not owner)
        self._check_size(path)
        return read_adapter(path)

    def _check_size(self, path: Path) -> None:
        """Raise ModelSourceError if the adapter is too large: it stays in memory."""
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ModelSourceError(f"{path.name} cannot be read: {error.strerror}") from error
        if size > self._max_bytes:
            raise too_large(path.name, size, self._max_bytes)

    def _download_for(
        self,
        owner: str,
        source: AdapterSource,
        token: str | None,
        registered: Collection[AdapterSource],
        download_dir: Path,
    ) -> Path:
        """Download an adapter for its owner, and delete what the owner does not use any more."""
        from dragoman.engines.llama.weights import hub

        folder = download_dir / _folder_name(owner)
        kept = {_folder_name(each.name, each.revision or "") for each in registered}
        for path in folder.iterdir() if folder.exists() else ():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        own_cache = folder / _folder_name(source.name, source.revision or "")
        repository, wanted = _parse_reference(source)
        if own_cache.name in kept and (files := hub.cached_files(source.revision, own_cache).get(repository)):
            return files[choose_model_file(repository, files, wanted)]
        try:
            limits = hub.DownloadLimits(self._max_bytes, own_cache)
            return hub.fetch(
                repository, wanted, progress=False, revision=source.revision, token=token or False, limits=limits
            )
        except ModelSourceError:
            shutil.rmtree(own_cache, ignore_errors=True)
            raise

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

    def _from_hub(self, source: AdapterSource, token: str | None, *, may_download: bool) -> Path:
        from dragoman.engines.llama.weights import hub

        repository, wanted = _parse_reference(source)
        if may_download:
            # The token in the environment belongs to the operator: clients get access by their own tokens only.
            return hub.fetch(
                repository,
                wanted,
                progress=False,
                revision=source.revision,
                token=token or False,
                limits=hub.DownloadLimits(self._max_bytes),
            )
        files = hub.cached_files(source.revision).get(repository)
        if not files:
            raise AdapterMissing(f"Model '{source.name}' is not in the local store and downloads are disabled")
        return files[choose_model_file(repository, files, wanted)]


@contextlib.asynccontextmanager
async def _locked(folder: Path) -> AsyncIterator[None]:
    """Make a folder, and hold its lock between processes. Raises OSError."""
    descriptor = _open_folder(folder)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_RETRY_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _open_folder(folder: Path) -> int:
    """Make a folder if there is none, and return its descriptor. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def _parse_reference(source: AdapterSource) -> tuple[str, str | None]:
    """Return the repository and the wanted file. Raises ModelSourceError."""
    reference = HUB_REFERENCE.fullmatch(source.name)
    if reference is None:
        raise ModelSourceError(f"'{source.name}' is no repository; give owner/name or owner/name:FILE")
    return reference["repository"], reference["wanted"]


def _folder_name(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:32]


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
