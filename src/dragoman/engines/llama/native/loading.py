"""Loading a model with the library that computes it fastest, if it computes it right."""

import sys
from pathlib import Path

from dragoman.engines.llama.native.backend import Backend, LlamaBackend
from dragoman.engines.llama.native.check_cache import load_check, store_check
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.choice import IK_LLAMA_CPP, LLAMA_CPP, choose_build, load_library
from dragoman.engines.llama.native.libraries.ik_llama_cpp import IkLlamaCpp
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.native.library_check import agrees_with_llama_cpp
from dragoman.engines.llama.native.lora_fallback import LoraFallbackBackend
from dragoman.engines.llama.native.model import Model, ModelError


def load_model(path: Path, setting: str | None, options: ContextOptions) -> Model:
    """The model in memory, for contexts with these options. Raises LibraryError or ModelError.

    Without a setting, what ik_llama.cpp cannot load, or expects other tokens in than llama.cpp does, llama.cpp serves.
    """
    build = choose_build(setting, path, cells=options.context_cells, reproducible=options.reproducible)
    if build == IK_LLAMA_CPP and setting is None:
        try:
            model = Model(load_library(build), path)
        except ModelError:
            return Model(load_library(LLAMA_CPP), path)  # It says better what is wrong with the file, if anything is.
        if _agrees_with_llama_cpp(model, options.threads):
            return model
        model.close()
        build = LLAMA_CPP
    return Model(load_library(build), path)


def open_backend(model: Model, options: ContextOptions) -> Backend:
    """Contexts for the model, and for its adapters once there are any. Raises ModelError."""
    primary = LlamaBackend(model, options)
    if model.library.supports_lora:
        return primary
    return LoraFallbackBackend(primary, lambda: LlamaBackend(Model(load_library(LLAMA_CPP), model.path), options))


def library_files(model: Model) -> tuple[Path, ...]:
    """Everything whose code computes the model, with adapters and without."""
    library = model.library
    return library.files if library.supports_lora else (*library.files, packaged_llama_cpp())


def _agrees_with_llama_cpp(model: Model, threads: int) -> bool:
    check = f"{IkLlamaCpp.pinned} agrees with {LlamaCpp.pinned}"
    agrees = load_check(model.path, check)
    if agrees is None:
        agrees = agrees_with_llama_cpp(model, threads)
        store_check(model.path, check, passed=agrees)
        if not agrees:
            message = f"{model.path.name} is computed by llama.cpp, since ik_llama.cpp expects other tokens in it"
            print(f"dragoman engine: {message}", file=sys.stderr)
    return agrees
