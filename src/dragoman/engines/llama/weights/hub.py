"""Models from the Hugging Face hub, stored in the cache that all its tools share, and used from there offline.

Every error of huggingface_hub and its HTTP client is translated here.
"""

from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

from huggingface_hub import HfApi, errors, get_hf_file_metadata, hf_hub_download, hf_hub_url, scan_cache_dir
from huggingface_hub.errors import (
    CacheNotFound,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dragoman.engines.llama.weights.gguf_files import ModelSourceError, choose_model_file, part_names, too_large

LISTING_TIMEOUT_SECONDS = 10.0
"""The library's default is no timeout."""

# The base of the errors of huggingface_hub's HTTP client, which differs between versions.
_ClientError = errors.HTTPError  # type: ignore[attr-defined]
# Its other errors are OSErrors, invalid names are ValueErrors, and the Xet transfer raises RuntimeErrors.
_DOWNLOAD_ERRORS = (_ClientError, OSError, RuntimeError, ValueError)


class DownloadLimits(NamedTuple):
    """The limits of a download that a client asked for."""

    max_bytes: int
    """Of all files together. Their sizes are asked before, and what is longer than its announced size is cut off."""
    cache_dir: Path | None = None
    """Where the files are stored. None means the cache that all tools share."""


def fetch(
    repository: str,
    wanted: str | None,
    *,
    progress: bool,
    revision: str | None = None,
    token: str | Literal[False] | None = None,
    limits: DownloadLimits | None = None,
) -> Path:
    """Download a model unless the cache has its newest version, and return its path in the cache.

    `wanted` is as in choose_model_file. `progress` draws a bar on standard error. A `revision` of None is the main
    branch. A `token` of None is that of the environment, and False is no token. If the hub cannot be reached or denies
    access, the file in the cache is used. `limits` of None is no limit. Raises ModelSourceError.
    """
    try:
        listing = (
            HfApi().model_info(repository, revision=revision, timeout=LISTING_TIMEOUT_SECONDS, token=token).siblings
            or []
        )
        name = choose_model_file(repository, [file.rfilename for file in listing], wanted)
        source = _HubFiles(repository, part_names(name), revision, token)
        if limits is not None:
            _check_size(source, limits.max_bytes)
        return _download(source, limits, progress=progress)
    except _DOWNLOAD_ERRORS as error:
        cached = _find_cached(repository, wanted, revision)
        if cached is None:
            variable = "HF_TOKEN" if token is None else "hf_token"
            raise ModelSourceError(_explanation(repository, error, variable)) from error
        return cached


def cached_files(revision: str | None = None, cache_dir: Path | None = None) -> dict[str, dict[str, Path]]:
    """Return the files in the cache: repository → name in it → path.

    `revision` is a branch, tag or commit. None means all of them, and of several versions of a file that of the main
    branch. A `cache_dir` of None is the cache that all tools share. Raises ModelSourceError if it cannot be read.
    """
    try:
        cache = scan_cache_dir(cache_dir)
    except CacheNotFound:
        return {}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no directory"
        raise ModelSourceError(f"the Hugging Face cache (HF_HUB_CACHE) cannot be read: {reason}") from error
    files: dict[str, dict[str, Path]] = {}
    for repository in cache.repos:
        if repository.repo_type != "model":
            continue
        found = files.setdefault(repository.repo_id, {})
        for version in sorted(repository.revisions, key=lambda one: ("main" in one.refs, one.last_modified)):
            if revision is None or revision in (version.commit_hash, *version.refs):
                found |= {
                    file.file_path.relative_to(version.snapshot_path).as_posix(): file.file_path
                    for file in version.files
                }
    return files


def _find_cached(repository: str, wanted: str | None, revision: str | None) -> Path | None:
    try:
        files = cached_files(revision).get(repository, {})
        return files[choose_model_file(repository, files, wanted)]
    except ModelSourceError:
        return None


class _HubFiles(NamedTuple):
    """The files of a model in a repository."""

    repository: str
    names: list[str]
    revision: str | None
    token: str | Literal[False] | None


def _check_size(source: _HubFiles, max_bytes: int) -> None:
    """Ask for the sizes of the files. Raises ModelSourceError if they are too large or unknown, and client errors."""
    urls = (hf_hub_url(source.repository, name, revision=source.revision) for name in source.names)
    sizes = [get_hf_file_metadata(url, source.token, LISTING_TIMEOUT_SECONDS).size for url in urls]
    if any(size is None for size in sizes):
        raise ModelSourceError(f"the hub does not say how large {source.repository} is")
    if (total := sum(size or 0 for size in sizes)) > max_bytes:
        raise too_large(source.repository, total, max_bytes)


def _download(source: _HubFiles, limits: DownloadLimits | None, *, progress: bool) -> Path:
    console = Console(stderr=True, quiet=not progress)
    paths = [
        hf_hub_download(
            source.repository,
            name,
            revision=source.revision,
            token=source.token,
            cache_dir=None if limits is None else limits.cache_dir,
            tqdm_class=_progress_bar_type(name, console, None if limits is None else limits.max_bytes),
        )
        for name in source.names
    ]
    return Path(paths[0])


def _progress_bar_type(name: str, console: Console, max_bytes: int | None) -> type["_ProgressBar"]:
    # huggingface_hub takes a class and labels its bars by URLs.
    return type("Bar", (_ProgressBar,), {"name": name, "console": console, "max_bytes": max_bytes})


class _ProgressBar:
    """The part of tqdm's interface that huggingface_hub uses, drawn by rich. It stops a download that is too long."""

    name: ClassVar[str]
    console: ClassVar[Console]
    max_bytes: ClassVar[int | None]

    def __init__(self, *, total: float | None = None, initial: int = 0, **_: object) -> None:
        self._bytes: float = initial
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._progress.add_task(self.name, total=total, completed=initial)
        self._progress.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, amount: float | None = 1) -> None:
        """Count bytes that were received, before they are written. Raises ModelSourceError if they are too many."""
        self._bytes += amount or 0
        if self.max_bytes is not None and self._bytes > self.max_bytes:
            raise too_large(self.name, int(self._bytes), self.max_bytes)
        self._progress.advance(self._task, amount or 0)

    def update_transfer(self, amount: float | None = 1) -> None:
        """Ignore the bytes on the wire. For a class without this method a second bar is made."""

    def set_postfix_str(self, text: str, refresh: bool = False) -> None:
        """Ignore the speed, which rich measures itself."""

    def set_transfer_postfix_str(self, text: str, refresh: bool = False) -> None:
        """Ignore the speed on the wire."""

    def close(self) -> None:
        self._progress.stop()


def _explanation(repository: str, error: Exception, token: str) -> str:
    """Explain an error to the user. `token` names the variable or parameter with the token."""
    match error:
        case GatedRepoError():
            return f"{repository} is gated: accept its terms on its page and set {token} to your token"
        case RepositoryNotFoundError():
            return f"there is no repository {repository}, or it is private and {token} may not read it"
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"the hub refused access to {repository}; check {token}"
        case HfHubHTTPError():
            return f"{repository} is not in the cache and the hub answered {error.response.status_code}"
        case OfflineModeIsEnabled():
            return f"{repository} is not in the cache and HF_HUB_OFFLINE forbids downloading it"
        case _ClientError() | ConnectionError() | LocalEntryNotFoundError():
            return (
                f"{repository} is not in the cache and the hub cannot be reached ({_first_line(error)}); "
                "check the network, or give the path of a .gguf file"
            )
    return f"downloading {repository} failed: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
