"""Choose the file to serve for a model: one in a quantization that is slow in llama.cpp is rewritten once.

The copies are in the user's cache, named by the digest of their source.
"""

import contextlib
import fcntl
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.filesize import decimal

from dragoman.engines.llama.weights.digests import cache_folder, content_digest, files_by_digest
from dragoman.engines.llama.weights.gguf_files import part_names
from dragoman.engines.llama.weights.gguf_header import HeaderError, read_header


class _Quantization(NamedTuple):
    """A quantization, as in ggml-common.h."""

    name: str
    block_bytes: int
    """Bytes of a block of 32 weights."""


# By number, as in a file's header: the package with the enumeration is imported only when a copy is written.
_SLOW_FORMATS = {3: _Quantization("Q4_1", 20), 7: _Quantization("Q5_1", 24)}
"""In these formats prompts take at least 1.5 times as long as in Q8_0; benchmarks/README.md has the measurement."""

_FAST_FORMAT = _Quantization("Q8_0", 34)

_MEASURED_MACHINES = ("x86_64", "amd64")

_VERSION = 1
"""Incremented when the same file would be rewritten differently than before."""

_MIN_SLOW_SHARE = 0.5
"""A file with at most this share of its bytes in slow formats is not rewritten."""

_MAX_MEMORY_SHARE = 0.5
"""The largest share of the machine's memory that a copy may take. It is up to 1.7 times as large as its source."""


class RewrittenModel(NamedTuple):
    """A rewritten model."""

    path: Path
    source: Path | None
    """None if that file is gone or has changed."""


class _CannotRewrite(Exception):
    """The file cannot be rewritten. The message is the reason, for the user."""


def faster_file(path: Path, *, progress: bool, notify: Callable[[str], None]) -> Path:
    """Return the file to serve for the model file `path`: a copy of it that is computed faster, or itself.

    A missing copy is made now, which takes about 15 seconds for each gigabyte. `progress` draws a bar on standard
    error. `notify` gets one line when a copy was made, or when one could not be made and why.
    """
    if platform.machine().lower() not in _MEASURED_MACHINES:
        return path
    try:
        sizes = _bytes_by_format(path)
    except (HeaderError, OSError):
        return path  # llama.cpp will report what is wrong with it.
    slow = _slow_format(sizes)
    if slow is None:
        return path
    try:
        return _rewritten_copy(path, slow, _rewritten_size(sizes), progress=progress, notify=notify)
    except OSError as error:
        reason = f"{error.filename or 'the cache'} cannot be used: {error.strerror}"
    except (_CannotRewrite, HeaderError) as error:
        reason = str(error)
    notify(f"{path.name} ({slow}) is served as it is, though {_FAST_FORMAT.name} would be faster: {reason}")
    return path


def rewritten_models() -> list[RewrittenModel]:
    """Return all copies, including those of files that are gone."""
    try:
        found = sorted(_rewritten_folder().glob("*.gguf"))
    except OSError:
        return []
    sources = files_by_digest()
    return [RewrittenModel(path, sources.get(path.stem.partition("-")[0])) for path in found]


def _bytes_by_format(path: Path) -> Counter[int]:
    """Count the bytes in each format, over all parts of the model."""
    sizes: Counter[int] = Counter()
    for name in part_names(path.name):
        for tensor in read_header(path.with_name(name)).tensors:
            sizes[tensor.type] += tensor.size
    return sizes


def _slow_format(sizes: Counter[int]) -> str | None:
    """Return the slow format of most of the weights. None if they are in other formats."""
    slow = {kind: sizes[kind] for kind in _SLOW_FORMATS if sizes[kind]}
    if sum(slow.values()) <= _MIN_SLOW_SHARE * sizes.total():
        return None
    return _SLOW_FORMATS[max(slow, key=slow.__getitem__)].name


def _rewritten_size(sizes: Counter[int]) -> int:
    return sum(
        size * _FAST_FORMAT.block_bytes // _SLOW_FORMATS[kind].block_bytes if kind in _SLOW_FORMATS else size
        for kind, size in sizes.items()
    )


def _rewritten_copy(path: Path, slow: str, size: int, *, progress: bool, notify: Callable[[str], None]) -> Path:
    """Return the path of the copy, with about `size` bytes; make it if missing.

    Raises _CannotRewrite, HeaderError or OSError.
    """
    if len(part_names(path.name)) > 1:
        raise _CannotRewrite("it is split into several files")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > _MAX_MEMORY_SHARE * memory:
        raise _CannotRewrite(f"with {decimal(size)} it would take more than half of the memory, {decimal(memory)}")
    folder = _rewritten_folder()
    target = folder / f"{content_digest(path)}-{_VERSION}.gguf"
    if target.exists():
        return target
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder, lambda: notify(f"waiting for another server that is rewriting a model in {folder}")):
        if not target.exists():
            if (free := shutil.disk_usage(folder).free) < size:
                raise _CannotRewrite(f"that needs {decimal(size)} in {folder}, where {decimal(free)} are free")
            started = time.monotonic()
            _write(path, target, progress=progress)
            notify(
                f"rewrote {path.name} ({slow}) as {_FAST_FORMAT.name} for speed: {target}, "
                f"{decimal(target.stat().st_size)}, "
                f"{time.monotonic() - started:.1f} s; --requantize never to serve it as it is"
            )
    return target


def _write(source: Path, target: Path, *, progress: bool) -> None:
    # Imported only here: importing numpy and gguf takes longer than everything a later start does with the copy.
    from gguf.constants import GGMLQuantizationType

    from dragoman.engines.llama.weights import requantization

    planned = requantization.plan(
        source, source_types=_SLOW_FORMATS, target_type=GGMLQuantizationType[_FAST_FORMAT.name]
    )
    temporary = target.with_suffix(".unfinished")
    try:
        with _progress_bar(source.name, planned.size, visible=progress) as report:
            requantization.write(planned, temporary, report=report)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock between processes. `on_wait` is called if another process holds it now."""
    with folder.joinpath("lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _progress_bar(name: str, total: int, *, visible: bool) -> Iterator[Callable[[int], None]]:
    # Imported only here, like numpy above.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True, quiet=not visible)
    with Progress(TextColumn("{task.description}", markup=False), *columns, console=console) as progress:
        task = progress.add_task(f"rewriting {name} for speed", total=total)
        yield lambda written: progress.advance(task, written)


def _rewritten_folder() -> Path:
    return cache_folder() / "rewritten"
