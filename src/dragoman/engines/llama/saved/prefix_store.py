"""The folder of saved prefixes: what is in it, what of it a request can use, and its budget.

Each model has a folder of its own in it, named by the fingerprint of everything that determines KV cells. A file's name
begins with a digest of its scope and its first tokens, so that a request reads the heads only of files that begin like
it, and a start reads none. No request looks at files of other owners but for public prefixes: that would take time.
Several processes may use one folder: files appear complete, and one that is gone is computed again.
"""

import contextlib
import hashlib
import os
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from dragoman.core import logs
from dragoman.engines.llama.arrays import SequenceState, TokenArray
from dragoman.engines.llama.batching.host_cache import HostKVCache, HostSegment, SegmentSpan, SharingScope
from dragoman.engines.llama.native.backend import NO_ADAPTER
from dragoman.engines.llama.native.context import EMPTY_STATE
from dragoman.engines.llama.saved.prefix_budget import MAX_FILES, PrefixBudget
from dragoman.engines.llama.saved.prefix_file import (
    SUFFIX,
    PrefixHead,
    UnusablePrefix,
    WritingStopped,
    checksum,
    file_bytes,
    read_head,
    read_prefix,
    write_prefix,
)

MIN_SAVED_TOKENS = 256
"""What fewer tokens would add to the folder is computed about as fast as it is read from a slow disk."""

MIN_RESTORED_TOKENS = 128
"""A request reads files only if that saves it at least this number of tokens."""

_ROOT_TOKENS = 32
"""First tokens that a file's name has a digest of."""

_PUBLIC = "public"
"""Stands for the scope of what is shared with all owners. No digest is equal to it."""

_PAUSE_SECONDS = 60.0
"""Time without writing after a disk was full, or the folder could not be written."""

_SETTLED_NANOSECONDS = 10**8
"""A folder that changed later may change again without another time of change: a file system's clock is coarse."""

_UNLIMITED = 2**62

_log = logs.get_logger(__name__)


_OTHER_OWNER = "saved "
"""Precedes the digest of a file's scope in the name of its owner, if a request of another one has read it."""


class SavedScope(NamedTuple):
    """Whose a prefix is, in words that mean the same after a restart."""

    digest: str
    """Of an owner's lasting name and a cache_salt."""
    public_tokens: int
    adapter: str = ""
    """The content and the scale of an adapter. Empty: there is none."""

    @classmethod
    def of(cls, scope: SharingScope, owner: str, adapter: str) -> "SavedScope":
        """Return the scope whose owner has this lasting name."""
        if cls.is_of_file(scope):
            return cls(scope.owner.removeprefix(_OTHER_OWNER), scope.public_tokens, adapter)
        digest = hashlib.sha256(f"{owner}\0{scope.cache_salt}".encode()).hexdigest()
        return cls(digest, scope.public_tokens, adapter)

    @staticmethod
    def is_of_file(scope: SharingScope) -> bool:
        """Whether it is the scope of a segment that a request of another owner has read."""
        return scope.owner.startswith(_OTHER_OWNER)

    @property
    def as_sharing_scope(self) -> SharingScope:
        """What is compared with the scopes of files. Names of files distinguish adapters already."""
        return SharingScope(NO_ADAPTER, self.digest, "", self.public_tokens)


class Restored(NamedTuple):
    """What was read for a request."""

    segments: list[HostSegment]
    tokens: int
    """How many more of its tokens need not be computed."""


class _SavedSegment(HostSegment):
    """A file's head, as a segment without its cells."""

    def __init__(self, name: str, head: PrefixHead) -> None:
        scope = SharingScope(NO_ADAPTER, head.scope, "", head.public_tokens)
        super().__init__(scope, head.token_array, head.start, EMPTY_STATE, 0)
        self.name = name


class PrefixStore:
    """The saved prefixes of one model. Every method may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        *,
        max_bytes: int,
        divisible_tokens: int | None = None,
        whole_only: bool = False,
    ) -> None:
        """`max_bytes`: of the files of all models in the folder. Raises OSError if it cannot be made.

        `divisible_tokens`: the length up to which a part of a file can be used; None: parts of all can. `whole_only`: a
        file is used with all of its tokens or not at all.
        """
        self._folder = folder / hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
        self._fingerprint = fingerprint
        self.budget = PrefixBudget(folder, max_bytes)
        self._divisible_tokens = divisible_tokens
        self._whole_only = whole_only
        self._lock = threading.Lock()
        self._listed_at: int | None = None
        """The folder's time of change when it was listed."""
        self._names: Mapping[str, Sequence[str]] = {}
        """Digest of a scope, or of what is public, and first tokens → names of files."""
        self._heads: dict[str, _SavedSegment] = {}
        self._resident: dict[tuple[str, bool], weakref.ref[HostSegment]] = {}
        """Name of a file, and whether it is the reader's own → the segment that has its cells in host memory."""
        self._read: set[str] = set()
        self._paused_until = 0.0
        _create_private_folder(self._folder)
        self.budget.measure()

    def may_hold(self, saved: SavedScope, tokens: TokenArray) -> bool:
        """Whether a file begins with the first of these tokens. It reads nothing but the folder's time of change."""
        if len(tokens) < MIN_RESTORED_TOKENS:
            return False
        self._refresh()
        return any(root in self._names for root in _roots(saved, tokens))

    def load(self, saved: SavedScope, scope: SharingScope, tokens: TokenArray, max_tokens: int) -> Restored:
        """Read what a request needs that is not in host memory: at most `max_tokens`.

        `scope` is the request's own, which the engine compares with those in memory. A file that is damaged, or cannot
        be read, is deleted.
        """
        wanted = tokens[:-1]  # The logits of the last one must be computed.
        entries = self._entries(saved, tokens)
        own = {entry.name: entry.scope.owner == saved.digest for entry in entries}
        resident = [entry for entry in entries if self._is_resident(entry.name, own=own[entry.name])]
        resident_names = {entry.name for entry in resident}
        spans = self._chain([*resident, *entries], saved, wanted)
        covered = _end(self._chain(resident, saved, wanted))
        segments: list[HostSegment] = []
        end = covered
        if _end(spans) - covered < MIN_RESTORED_TOKENS:
            return Restored(segments, 0)
        for span in spans:
            entry = span.segment
            assert isinstance(entry, _SavedSegment)
            if entry.name not in resident_names:
                max_tokens -= entry.length
                state = self._state(entry) if max_tokens >= 0 else None
                if state is None:
                    break
                owner = (
                    scope if own[entry.name] else scope._replace(owner=_OTHER_OWNER + entry.scope.owner, cache_salt="")
                )
                in_memory = owner._replace(public_tokens=entry.scope.public_tokens)
                segment = HostSegment(in_memory, entry.tokens, entry.start, state, 0)
                segment.was_offered = True
                segments.append(segment)
                self._resident[entry.name, own[entry.name]] = weakref.ref(segment)
                self._read.add(entry.name)
            end = span.end
        return Restored(segments, max(0, end - covered) if segments else 0)

    def save(self, chain: Sequence[tuple[SavedScope, HostSegment]], is_stopped: Callable[[], bool]) -> None:
        """Write the segments of a sequence that are missing, the first one first. An error is logged, and ends it.

        Each has a scope of its own: a sequence may go on from the public part of another owner's. `is_stopped` turns
        true when the process ends, and what is being written is given up.
        """
        saved, last = chain[-1]
        tokens = last.tokens
        if len(tokens) < MIN_SAVED_TOKENS or (tokens < 0).any() or time.monotonic() < self._paused_until:
            return  # Numbers below 0 stand for images.
        try:
            _create_private_folder(self._folder)  # Somebody may have removed it.
            spans = self._chain(self._entries(saved, tokens), saved, tokens)
            self._touch(span.segment for span in spans)
            if len(tokens) - _end(spans) >= MIN_SAVED_TOKENS:
                self._write_missing(chain, is_stopped)
        except WritingStopped:
            return
        except OSError as error:
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
            _log.warning("saved_prefix_not_written", folder=str(self._folder), reason=str(error))

    def _write_missing(self, chain: Sequence[tuple[SavedScope, HostSegment]], is_stopped: Callable[[], bool]) -> None:
        """Write the segments of a sequence that have no file, as far as all of its files fit into the budget.

        What continues a segment is of no use without it. Raises OSError or WritingStopped.
        """
        total = 0
        for saved, segment in chain:
            name = _name(saved, segment)
            path = self._folder / name
            head = None if path.exists() else self._head(saved, segment)
            size = path.stat().st_size if head is None else file_bytes(head)
            total += size
            if total > self.budget.max_bytes:
                return
            if head is not None:
                self.budget.make_room(size)
                write_prefix(path, head, segment.state, is_stopped)
                self.budget.bytes += size
                self._listed_at = None
            self._resident[name, not SavedScope.is_of_file(segment.scope)] = weakref.ref(segment)

    def discard_read(self) -> None:
        """Delete the files that were read: with cells of theirs the model may have lost its state."""
        for name in self._read:
            self._delete(name, "the model's state was lost after it was read")

    def _chain(self, entries: Iterable[HostSegment], saved: SavedScope, wanted: TokenArray) -> list[SegmentSpan]:
        """Return the spans at the beginning of `wanted` that can be used, as host memory would find them."""
        index = HostKVCache(_UNLIMITED)
        for entry in entries:
            index.insert(entry)
        if self._divisible_tokens is not None:
            span = index.match_whole(saved.as_sharing_scope, wanted, self._divisible_tokens)
            spans = [] if span is None else [span]
        else:
            spans = index.match(saved.as_sharing_scope, wanted, 0)
        return list(takewhile(_is_whole, spans)) if self._whole_only else spans

    def _entries(self, saved: SavedScope, tokens: TokenArray) -> list[_SavedSegment]:
        """Return the files that begin with the first of these tokens. One that cannot be used is deleted."""
        with self._lock:
            self._refresh()
            names = {name: None for root in _roots(saved, tokens) for name in self._names.get(root, ())}
            return [head for name in names if (head := self._head_of(name, saved.adapter)) is not None]

    def _refresh(self) -> None:
        """List the folder if it has changed. Without it, there are no files."""
        names: defaultdict[str, list[str]] = defaultdict(list)
        changed_at, is_settled = None, False
        with contextlib.suppress(OSError):
            changed_at = self._folder.stat().st_mtime_ns
            if changed_at == self._listed_at:
                return
            is_settled = time.time_ns() - changed_at > _SETTLED_NANOSECONDS
            for name in sorted(path.name for path in self._folder.iterdir()):
                if name.endswith(SUFFIX):
                    for root in name.split("-")[:-1]:
                        names[root].append(name)
        self._names, self._listed_at = names, changed_at if is_settled else None

    def _head_of(self, name: str, adapter: str) -> _SavedSegment | None:
        if name in self._heads:
            return self._heads[name]
        try:
            head = read_head(self._folder / name)
            if (head.fingerprint, head.adapter) != (self._fingerprint, adapter):
                raise UnusablePrefix("it was computed by something else")
        except FileNotFoundError:  # Another process has deleted it.
            return None
        except (OSError, UnusablePrefix) as error:
            self._delete(name, str(error))
            return None
        if len(self._heads) >= MAX_FILES:
            self._heads.clear()
        return self._heads.setdefault(name, _SavedSegment(name, head))

    def _state(self, entry: _SavedSegment) -> SequenceState | None:
        """Read the cells of a file, and mark it as used. None, and it is deleted, if that fails."""
        path = self._folder / entry.name
        try:
            head, state = read_prefix(path)
            if head.tokens != entry.tokens.astype("<i4").tobytes() or head.start != entry.start:
                raise UnusablePrefix("its tokens have changed")
        except (FileNotFoundError, MemoryError):
            return None
        except (OSError, UnusablePrefix) as error:
            self._delete(entry.name, str(error))
            return None
        self._touch([entry])
        return state

    def _touch(self, entries: Iterable[HostSegment]) -> None:
        """Note that the files were used now."""
        for entry in entries:
            assert isinstance(entry, _SavedSegment)
            with contextlib.suppress(OSError):
                os.utime(self._folder / entry.name)

    def _delete(self, name: str, reason: str) -> None:
        _log.warning("saved_prefix_deleted", file=str(self._folder / name), reason=reason)
        self._heads.pop(name, None)
        with contextlib.suppress(OSError):
            (self._folder / name).unlink()

    def _is_resident(self, name: str, *, own: bool) -> bool:
        """Whether host memory has a file's cells, for its own owner if it is `own`."""
        references = [self._resident.get((name, for_own)) for for_own in {True, own}]
        return any(reference is not None and reference() is not None for reference in references)

    def _head(self, saved: SavedScope, segment: HostSegment) -> PrefixHead:
        return PrefixHead(
            fingerprint=self._fingerprint,
            adapter=saved.adapter,
            scope=saved.digest,
            public_tokens=segment.scope.public_tokens,
            start=segment.start,
            tokens=segment.tokens.astype("<i4").tobytes(),
            state_bytes=len(segment.state),
            state_checksum=checksum(segment.state),
        )


def _end(spans: Sequence[SegmentSpan]) -> int:
    return spans[-1].end if spans else 0


def _is_whole(span: SegmentSpan) -> bool:
    return span.start == span.segment.start and span.end == len(span.segment.tokens)


def _roots(saved: SavedScope, tokens: TokenArray) -> list[str]:
    """Return the beginnings of names of files that a request may use: its own ones, and those with a public part."""
    first = tokens[:_ROOT_TOKENS].astype("<i4").tobytes()
    whose = [saved.digest, _PUBLIC] if saved.public_tokens else [saved.digest]
    return [hashlib.sha256(f"{each}\0{saved.adapter}\0".encode() + first).hexdigest()[:16] for each in whose]


def _name(saved: SavedScope, segment: HostSegment) -> str:
    tokens = segment.tokens.astype("<i4").tobytes()
    identity = hashlib.sha256(f"{saved.digest}\0{segment.start}\0".encode() + tokens).hexdigest()[:24]
    return f"{'-'.join((*_roots(saved, segment.tokens), identity))}{SUFFIX}"


def _create_private_folder(path: Path) -> None:
    for folder in (*reversed(path.absolute().parents), path):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
