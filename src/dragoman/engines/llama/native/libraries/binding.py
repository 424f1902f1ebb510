"""llama.cpp's C API through ctypes: what is common to its builds, and the check that a binding fits the library.

Another build may lay its structs out differently and would abort the process on first use, so `Library` compares the
defaults the library returns with known ones before anything else is called.
"""

import ctypes
import importlib.util
from collections import deque
from collections.abc import Callable
from ctypes import Structure, c_char_p, c_int, c_void_p
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec

MAX_SEQUENCE_IDS = 256
"""llama.cpp's compile-time limit, LLAMA_MAX_SEQ."""

LOG_LEVEL_WARNING = 3
LOG_LEVEL_CONTINUE = 5

LogCallback = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)


class CFunction(NamedTuple):
    """A function of the library."""

    result: Any
    arguments: list[Any]
    symbol: str | None = None
    """Its name there; None: as it is bound."""


Functions = dict[str, CFunction]

Defaults = dict[str, object]
"""What fields of a struct must be when the library has just made it."""


class LibraryError(Exception):
    """llama.cpp's library is missing or is not the build its binding was written for. One line for a person."""


class ContextOptions(msgspec.Struct, frozen=True):
    """How much a context may hold and how it computes."""

    context_cells: int
    batch_tokens: int
    """The most tokens one decode is given."""
    threads: int
    reproducible: bool = False
    """Compute attention so that a sequence's logits do not depend on what else is in the batch or the cache."""


class Library:
    """A loaded library. Its C functions are attributes under llama.cpp's own names; calls release the GIL."""

    pinned: ClassVar[str]
    """The package and version that the binding was written for."""
    functions: ClassVar[Functions]
    model_defaults: ClassVar[Defaults]
    context_defaults: ClassVar[Defaults]
    batch_type: ClassVar[type[Structure]]
    """struct llama_batch; its pointers lead into arrays the caller keeps alive."""
    supports_reproducible: ClassVar[bool] = True
    """Whether a context can compute attention so that it does not depend on the batch."""
    supports_lora: ClassVar[bool] = True
    """Whether it computes LoRA adapters right."""

    def __init__(self, path: Path) -> None:
        """Load and verify. Raises LibraryError when the file cannot be loaded or lays its structs out differently."""
        self.path = path
        try:
            library = ctypes.CDLL(str(path))
            for name, (result, arguments, symbol) in self.functions.items():
                function = getattr(library, symbol or name)
                function.restype = result
                function.argtypes = arguments
                setattr(self, name, function)
        except (OSError, AttributeError) as error:
            raise LibraryError(f"{path} is not a usable llama.cpp library: {error}") from error
        self._verify("llama_model_params", self.llama_model_default_params(), self.model_defaults)
        self._verify("llama_context_params", self.llama_context_default_params(), self.context_defaults)
        log = _LOGS.setdefault(path, _Log())
        self.recent_log = log.recent
        """The last warnings and errors llama.cpp logged, oldest first."""
        self.llama_log_set(log.callback, None)
        self.llama_backend_init()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"{name} is not bound; add it to the functions of {type(self).__name__}")

    @property
    def files(self) -> tuple[Path, ...]:
        """All files whose code computes."""
        return (self.path,)

    def version(self) -> str:
        """The library's own version text."""
        raise NotImplementedError

    def context_params(self, options: ContextOptions) -> Structure:
        """struct llama_context_params for a context with one KV cache for all sequences."""
        raise NotImplementedError

    def compact(self, context: int) -> bool:  # noqa: ARG002
        """Bring some more of the free KV cells together; False: this library takes them wherever they lie."""
        return False

    def _verify(self, struct: str, actual: Structure, expected: Defaults) -> None:
        for field, value in expected.items():
            if (found := getattr(actual, field)) != value:
                raise LibraryError(
                    f"{self.path} is another build of llama.cpp than this server was written for ({self.pinned}): "
                    f"the default of {struct}.{field} is {found}, expected {value}"
                )


class _Log:
    """What a library logged, whoever has loaded it."""

    def __init__(self) -> None:
        self.recent: deque[str] = deque(maxlen=20)
        self.callback = LogCallback(self._append)
        self._last_level = 0

    def _append(self, level: int, text: bytes, _user_data: object) -> None:
        level = self._last_level if level == LOG_LEVEL_CONTINUE else level
        self._last_level = level
        if level >= LOG_LEVEL_WARNING and (line := text.decode(errors="replace").strip()):
            self.recent.append(line)


_LOGS: dict[Path, _Log] = {}
"""Kept for ever: a library has one callback, and would call into freed memory once nobody referred to it."""


def package_folder(name: str) -> Path | None:
    """Where an installed package lies, found without importing it; None: it is not installed."""
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
