"""llama.cpp's C API through ctypes: what its builds have in common, and the check that a binding fits the library.

Another build may have other struct layouts and would abort the process on first use. So `Library` compares the
defaults that the library returns with known ones before it calls anything else.
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
    """The name in the library. None if it is the bound name."""


Functions = dict[str, CFunction]

Defaults = dict[str, object]
"""Field → value in a struct that the library has just made."""


class LibraryError(Exception):
    """llama.cpp's library is missing or is not the build that its binding was written for. The message is one line."""


class ContextOptions(msgspec.Struct, frozen=True):
    """The size of a context, and how it computes."""

    context_cells: int
    batch_tokens: int
    """The most tokens of one decode."""
    threads: int
    reproducible: bool = False
    """Whether the logits of a sequence do not depend on the rest of the batch and the cache."""
    sequence_ids: int = MAX_SEQUENCE_IDS
    """The number of sequence ids. A recurrent state takes memory for each of them."""


class EmbeddingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a context for embeddings, and what it returns."""

    context_cells: int
    """The most tokens that the context holds at once."""
    batch_tokens: int
    """The most tokens of one decode."""
    threads: int
    pooling: int
    """The enum llama_pooling_type: how the vectors of a sequence's tokens become one."""


class Library:
    """A loaded library. Its C functions are attributes under llama.cpp's own names; calls release the GIL."""

    pinned: ClassVar[str]
    """The package and version that the binding was written for."""
    functions: ClassVar[Functions]
    model_defaults: ClassVar[Defaults]
    context_defaults: ClassVar[Defaults]
    batch_type: ClassVar[type[Structure]]
    """struct llama_batch. Its pointers refer to arrays that the caller keeps alive."""
    supports_reproducible: ClassVar[bool] = True
    """Whether a context can compute attention independently of the batch."""
    has_flash_attention: ClassVar[bool] = True
    """Whether contexts for generation compute attention with it."""
    supports_lora: ClassVar[bool] = True
    """Whether it computes LoRA adapters correctly."""
    supports_recurrent: ClassVar[bool] = True
    """Whether sequences with a recurrent state can share a batch."""

    miscomputed_tokens: ClassVar[int | None] = None
    """A batch of an encoder must not have exactly so many tokens."""

    def __init__(self, path: Path) -> None:
        """Load and verify. Raises LibraryError when the file cannot be loaded or has other struct layouts."""
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
        """The last warnings and errors that llama.cpp logged, oldest first."""
        self.log_callback = log.callback
        self.llama_log_set(log.callback, None)
        self.llama_backend_init()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"{name} is not bound; add it to the functions of {type(self).__name__}")

    @property
    def files(self) -> tuple[Path, ...]:
        """All files with code that computes."""
        return (self.path,)

    def version(self) -> str:
        """Return the version text of the library."""
        raise NotImplementedError

    def context_params(self, options: ContextOptions) -> Structure:
        """Make a struct llama_context_params for a context with one KV cache for all sequences."""
        raise NotImplementedError

    def embedding_params(self, options: EmbeddingOptions) -> Structure:
        """Make a struct llama_context_params for a context that returns a vector for each sequence of a batch."""
        raise NotImplementedError

    def embedding_memory(self, context: int) -> int | None:
        """Return the memory that such a context keeps from one batch to the next. None: there is none."""
        memory: int | None = self.llama_get_memory(context)
        return memory

    def decode_for_embeddings(self, context: int, batch: Structure) -> int:
        """Compute a batch in such a context. Return the status of llama_decode."""
        return int(self.llama_decode(context, batch))

    def compact(self, context: int) -> bool:  # noqa: ARG002
        """Move more of the free KV cells together. False if the library does not need them to be contiguous."""
        return False

    def _verify(self, struct: str, actual: Structure, expected: Defaults) -> None:
        for field, value in expected.items():
            if (found := getattr(actual, field)) != value:
                raise LibraryError(
                    f"{self.path} is another build of llama.cpp than this server was written for ({self.pinned}): "
                    f"the default of {struct}.{field} is {found}, expected {value}"
                )


class _Log:
    """The log of a library file, shared by all its Library objects."""

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
"""Never freed: a library has one callback, and would call freed memory without this reference."""


def package_folder(name: str) -> Path | None:
    """Find the folder of a package without importing it. None if the package is not installed."""
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
