"""The tokens delivered to each running request, in a file that outlives its process.

A journal is a memory-mapped file with a slot for each running request. Writing to it is a store to memory. The pages
belong to the operating system, so they survive when the process is killed, and recovery knows what to charge. They may
be lost when the machine loses power. While the process lives, it holds the file's lock (flock); a free lock shows other
processes that it died.

A slot has 16 words of 64 bits: one that selects the valid copy of the counts (0: the slot is free), two copies of three
words each, the number of the fallback model that answers (0: none does), and the request's id in 64 bytes. An update
writes the invalid copy and then makes it the valid one with a single store, so that a reader never sees half an update,
wherever the process was killed.
"""

import contextlib
import fcntl
import mmap
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dragoman.accounts.private_files import create_private_file, create_private_folder
from dragoman.core.money import MAX_TOKEN_COUNT

_LOCK_NAME, _MACHINE_NAME = "lock", "machine"

_SUFFIX = ".journal-1"
"""Ends with the version of the format: journals of other versions are ignored."""

_WORDS = 16
_COPY_WORDS = 3
_FALLBACK_WORD = 7
_ID_WORD = 8
_ID_BYTES = 64
_SLOT_BYTES = _WORDS * 8
_SEGMENT_SLOTS = 1024
_SEGMENT_BYTES = _SEGMENT_SLOTS * _SLOT_BYTES  # A multiple of any page size, as a mapping's place in the file must be.


class JournalEntry(NamedTuple):
    """The tokens delivered to a request when its process ended."""

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    fallback: int = 0
    """As that of ledger.operations.Settlement."""


class JournalSlot:
    """A running request's slot in the journal."""

    def __init__(self, journal: "Journal", words: memoryview, first: int) -> None:
        self._journal = journal
        self._words = words
        self._first = first

    def record(self, prompt: int, cached: int, completion: int) -> None:
        """Record the tokens to charge, before they are sent to the client."""
        words, first = self._words, self._first
        inactive_copy = 3 - words[first]
        copy = first + 1 + (inactive_copy - 1) * _COPY_WORDS
        words[copy] = prompt
        words[copy + 1] = cached
        words[copy + 2] = completion
        words[first] = inactive_copy

    def record_fallback(self, number: int) -> None:
        """Record which fallback model answers, before any of its tokens."""
        self._words[self._first + _FALLBACK_WORD] = number

    def close(self) -> None:
        """Free the slot. Call it after the settlement, so that the request is recorded somewhere at every moment."""
        self._words[self._first] = 0
        self._journal.release(self._words, self._first)

    def open(self, request_id: str) -> None:
        """Take the slot for a request that has no tokens yet."""
        words, first = self._words, self._first
        name = request_id.encode("ascii").ljust(_ID_BYTES, b"\0")
        words[first + _ID_WORD : first + _WORDS] = memoryview(name).cast("Q")
        words[first + 1 : first + 1 + _COPY_WORDS] = memoryview(bytes(8 * _COPY_WORDS)).cast("Q")
        words[first + _FALLBACK_WORD] = 0
        words[first] = 1


class Journal:
    """This process's journal, for one thread. Do not fork while it is open: the child would keep the lock."""

    def __init__(self, path: Path) -> None:
        """Create and lock the file. Raises OSError. Only JournalFolder calls this, with the folder locked."""
        self.path = path
        self._file = _create_locked(path)
        self._segments: list[tuple[mmap.mmap, memoryview]] = []
        self._lost_segments: list[tuple[mmap.mmap, memoryview]] = []
        """Segments of a deleted file, with slots of requests that ran when it was deleted."""
        self._free_slots: list[tuple[memoryview, int]] = []
        self._open_count = 0

    def open(self, request_id: str) -> JournalSlot:
        """Open a slot for a request, without tokens. Raises OSError if the disk has no space for more slots."""
        if not self._free_slots:
            self._grow()
        words, first = self._free_slots.pop()
        slot = JournalSlot(self, words, first)
        slot.open(request_id)
        self._open_count += 1
        return slot

    def release(self, words: memoryview, first: int) -> None:
        """Reuse a slot that was marked as free."""
        self._open_count -= 1
        if not any(words is lost for _, lost in self._lost_segments):
            self._free_slots.append((words, first))

    @property
    def is_deleted(self) -> bool:
        """Whether the file is not at its path any more."""
        try:
            return not os.path.samestat(self.path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return True

    def recreate(self) -> None:
        """Go on in a new file. Requests that run keep their old slots, which no recovery finds. Raises OSError."""
        file = _create_locked(self.path)
        os.close(self._file)
        self._file = file
        self._lost_segments += self._segments
        self._segments = []
        self._free_slots.clear()

    def close(self) -> bool:
        """Close the journal. Delete it and return True, unless slots are open: recovery settles those."""
        if is_empty := not self._open_count:
            self.path.unlink(missing_ok=True)
        self._free_slots.clear()
        for segment, words in (*self._segments, *self._lost_segments):
            words.release()
            segment.close()
        os.close(self._file)
        return is_empty

    def _grow(self) -> None:
        size = len(self._segments) * _SEGMENT_BYTES
        # Reserve the disk space now: a store to a page without space would kill the process.
        os.pwrite(self._file, bytes(_SEGMENT_BYTES), size)
        segment = mmap.mmap(self._file, _SEGMENT_BYTES, offset=size)
        words = memoryview(segment).cast("Q")
        self._segments.append((segment, words))
        self._free_slots.extend((words, slot * _WORDS) for slot in reversed(range(_SEGMENT_SLOTS)))


class AbandonedJournal(NamedTuple):
    """The journal of a process that died."""

    process_id: int
    path: Path

    def entries(self) -> dict[str, JournalEntry]:
        """Read its entries, by request id."""
        found = _read_entries(self.path.read_bytes())
        return {entry.request_id: entry for entry in found}


class JournalFolder:
    """The journals of all processes on this machine that use one database."""

    def __init__(self, folder: Path) -> None:
        """Create the folder if it is missing. Raises OSError."""
        self._folder = folder
        self.machine_id = secrets.token_hex(16)
        create_private_folder(folder)
        with self._locked():
            self._load_machine_id()

    def create(self, process_id: int) -> Journal:
        """Create a process's journal. Raises OSError."""
        with self._locked():
            return Journal(self._path(process_id))

    def restore(self, journal: Journal) -> bool:
        """Create the folder and this process's journal again if they were deleted, and return whether they were.

        Raises OSError.
        """
        if not journal.is_deleted:
            return False
        create_private_folder(self._folder)
        with self._locked():
            self._load_machine_id()
            journal.recreate()
        return True

    def exists(self, process_id: int) -> bool:
        """Whether the process has a journal."""
        return self._path(process_id).exists()

    @contextlib.contextmanager
    def abandoned(self) -> Iterator[list[AbandonedJournal]]:
        """Yield the journals of dead processes. Within the block no other process gets them, and none is created."""
        with self._locked():
            yield [
                AbandonedJournal(int(path.name.removesuffix(_SUFFIX), 16), path)
                for path in sorted(self._folder.glob(f"*{_SUFFIX}"))
                if _is_abandoned(path)
            ]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        file = os.open(self._folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _load_machine_id(self) -> None:
        """Read the folder's id, unique over all machines, or give it the one that was chosen here."""
        path = self._folder / _MACHINE_NAME
        with contextlib.suppress(FileNotFoundError):
            self.machine_id = path.read_text() or self.machine_id  # Empty: the disk was full.
        create_private_file(path)
        path.write_text(self.machine_id)

    def _path(self, process_id: int) -> Path:
        return self._folder / f"{process_id:016x}{_SUFFIX}"


def is_journal_file(name: str) -> bool:
    """Whether a file in the folder of journals has a name that JournalFolder gives."""
    return name.endswith(_SUFFIX) or name in (_LOCK_NAME, _MACHINE_NAME)


def _create_locked(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _is_abandoned(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # Its process has just ended normally.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def _read_entries(journal: bytes) -> Iterator[JournalEntry]:
    words = memoryview(journal[: len(journal) // _SLOT_BYTES * _SLOT_BYTES]).cast("Q")
    for first in range(0, len(words), _WORDS):
        valid = words[first]
        if valid in (1, 2):
            copy = first + 1 + (valid - 1) * _COPY_WORDS
            prompt, cached, completion = words[copy : copy + _COPY_WORDS]
            fallback = words[first + _FALLBACK_WORD]
            name = words[first + _ID_WORD : first + _WORDS].tobytes().rstrip(b"\0")
            # After a loss of power the file may contain anything.
            if name.isascii() and cached <= prompt <= MAX_TOKEN_COUNT and completion <= MAX_TOKEN_COUNT:
                yield JournalEntry(name.decode("ascii"), prompt, cached, completion, fallback)
