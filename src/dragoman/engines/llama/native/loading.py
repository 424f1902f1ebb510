"""Loading a model with the library that computes it fastest, if it computes it right."""

from pathlib import Path

from dragoman.engines.llama.native.backend import Backend
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.choice import IK_LLAMA_CPP, LLAMA_CPP, choose_build, load_library
from dragoman.engines.llama.native.libraries.llama_cpp import packaged_llama_cpp
from dragoman.engines.llama.native.library_check import is_equivalent
from dragoman.engines.llama.native.llama_backend import LlamaBackend
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
        if is_equivalent(model, options.threads):
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
