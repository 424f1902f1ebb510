"""Which file to serve for a model: one in a quantisation that llama.cpp is slow with is rewritten once, and kept.

The copies lie in the user's cache, named by the content they were made of.
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

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from dragoman.engines.llama.digests import cache_folder, content_digest, remembered_files
from dragoman.engines.llama.gguf_files import parts
from dragoman.engines.llama.gguf_header import HeaderError, read_header


class _Format(NamedTuple):
    """A quantisation, as ggml-common.h has it."""

    name: str
    block_bytes: int
    """Of 32 weights."""


# By number, as in a file's header: the enumeration's package is imported only when a copy has to be written.
_SLOW = {3: _Format("Q4_1", 20), 7: _Format("Q5_1", 24)}
"""Formats in which prompts take at least 1.5 times as long as in Q8_0; benchmarks/README.md has the measurement."""

_FAST = _Format("Q8_0", 34)

_MEASURED_MACHINES = ("x86_64", "amd64")

_VERSION = 1
"""Raised when the same file would be rewritten otherwise than before."""

_SHARE_OF_WEIGHTS = 0.5
"""Of the file's bytes that must be in slow formats."""

_SHARE_OF_MEMORY = 0.5
"""Of the machine's memory that a copy may take: it is up to 1.7 times as large as its source."""


class Copy(NamedTuple):
    """A rewritten model."""

    path: Path
    source: Path | None
    """None: that file is gone, or another one now."""


class _Unsuitable(Exception):
    """The file cannot be rewritten. The message is the reason, for a person."""


def faster_file(path: Path, *, progress: bool, tell: Callable[[str], None]) -> Path:
    """The file to serve for the model file `path`: a copy of it that is computed faster, or itself.

    A copy that is not there yet is made now, in some 15 seconds a gigabyte; `progress` draws a bar on standard error.
    `tell` gets one line when a copy was made, or could have been and why it was not.
    """
    if platform.machine().lower() not in _MEASURED_MACHINES:
        return path
    try:
        sizes = _sizes(path)
    except (HeaderError, OSError):
        return path  # llama.cpp will say what is wrong with it.
    slow = _slow_format(sizes)
    if slow is None:
        return path
    try:
        return _copy(path, slow, _size_of_copy(sizes), progress=progress, tell=tell)
    except OSError as error:
        reason = f"{error.filename or 'the cache'} cannot be used: {error.strerror}"
    except (_Unsuitable, HeaderError) as error:
        reason = str(error)
    tell(f"{path.name} ({slow}) is served as it is, though {_FAST.name} would be faster: {reason}")
    return path


def copies() -> list[Copy]:
    """All copies there are, also those made of files that are gone."""
    try:
        found = sorted(_folder().glob("*.gguf"))
    except OSError:
        return []
    sources = remembered_files()
    return [Copy(path, sources.get(path.stem.partition("-")[0])) for path in found]


def _sizes(path: Path) -> Counter[int]:
    """How many bytes have which format, in all parts of the model."""
    sizes: Counter[int] = Counter()
    for name in parts(path.name):
        for tensor in read_header(path.with_name(name)).tensors:
            sizes[tensor.type] += tensor.size
    return sizes


def _slow_format(sizes: Counter[int]) -> str | None:
    """The slow format that most of the weights have; None: they have others."""
    slow = {kind: sizes[kind] for kind in _SLOW if sizes[kind]}
    if sum(slow.values()) <= _SHARE_OF_WEIGHTS * sizes.total():
        return None
    return _SLOW[max(slow, key=slow.__getitem__)].name


def _size_of_copy(sizes: Counter[int]) -> int:
    return sum(
        size * _FAST.block_bytes // _SLOW[kind].block_bytes if kind in _SLOW else size for kind, size in sizes.items()
    )


def _copy(path: Path, slow: str, size: int, *, progress: bool, tell: Callable[[str], None]) -> Path:
    """The path of the copy, which has about `size` bytes. Raises _Unsuitable, HeaderError or OSError."""
    if len(parts(path.name)) > 1:
        raise _Unsuitable("it is split into several files")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > _SHARE_OF_MEMORY * memory:
        raise _Unsuitable(f"with {decimal(size)} it would take more than half of the memory, {decimal(memory)}")
    folder = _folder()
    target = folder / f"{content_digest(path)}-{_VERSION}.gguf"
    if target.exists():
        return target
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder, lambda: tell(f"waiting for another server that is rewriting a model in {folder}")):
        if not target.exists():
            if (free := shutil.disk_usage(folder).free) < size:
                raise _Unsuitable(f"that needs {decimal(size)} in {folder}, where {decimal(free)} are free")
            began = time.monotonic()
            _write(path, target, progress=progress)
            tell(
                f"rewrote {path.name} ({slow}) as {_FAST.name} for speed: {target}, {decimal(target.stat().st_size)}, "
                f"{time.monotonic() - began:.1f} s; --rewrite-weights never to serve it as it is"
            )
    return target


def _write(source: Path, target: Path, *, progress: bool) -> None:
    # Imported only here: numpy and gguf take longer than all that a later start does with the copy.
    from gguf.constants import GGMLQuantizationType

    from dragoman.engines.llama import requantization

    planned = requantization.plan(source, replacing=_SLOW, by=GGMLQuantizationType[_FAST.name])
    unfinished = target.with_suffix(".unfinished")
    try:
        with _bar(source.name, planned.size, drawn=progress) as report:
            requantization.write(planned, unfinished, report=report)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Only one process at a time is inside; `waiting` is called if that is another one now."""
    with folder.joinpath("lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _bar(name: str, total: int, *, drawn: bool) -> Iterator[Callable[[int], None]]:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True, quiet=not drawn)
    with Progress(TextColumn("{task.description}", markup=False), *columns, console=console) as progress:
        task = progress.add_task(f"rewriting {name} for speed", total=total)
        yield lambda written: progress.advance(task, written)


def _folder() -> Path:
    return cache_folder() / "rewritten"
