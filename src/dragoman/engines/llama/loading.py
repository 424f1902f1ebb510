"""Loading a model with the library that computes it fastest, if it computes it right."""

import sys
from pathlib import Path

from dragoman.engines.llama.adapting import AdaptingBackend
from dragoman.engines.llama.backend import Backend, LlamaBackend
from dragoman.engines.llama.comparing import agrees_with_llama_cpp
from dragoman.engines.llama.libraries.binding import ContextOptions
from dragoman.engines.llama.libraries.choice import IK_LLAMA_CPP, LLAMA_CPP, choose, load
from dragoman.engines.llama.libraries.ik_llama_cpp import IkLlamaCpp
from dragoman.engines.llama.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.model import Model, ModelError
from dragoman.engines.llama.verdicts import remember_verdict, remembered_verdict


def load_model(path: Path, setting: str | None, options: ContextOptions) -> Model:
    """The model in memory, for contexts with these options. Raises LibraryError or ModelError.

    Without a setting, what ik_llama.cpp cannot load, or expects other tokens in than llama.cpp does, llama.cpp serves.
    """
    build = choose(setting, path, cells=options.context_cells, reproducible=options.reproducible)
    if build == IK_LLAMA_CPP and setting is None:
        try:
            model = Model(load(build), path)
        except ModelError:
            return Model(load(LLAMA_CPP), path)  # It says better what is wrong with the file, if anything is.
        if _is_known_to_agree(model, options.threads):
            return model
        model.close()
        build = LLAMA_CPP
    return Model(load(build), path)


def open_backend(model: Model, options: ContextOptions) -> Backend:
    """Contexts for the model, and for its adapters once there are any. Raises ModelError."""
    plain = LlamaBackend(model, options)
    if model.library.uses_adapters:
        return plain
    return AdaptingBackend(plain, lambda: LlamaBackend(Model(load(LLAMA_CPP), model.path), options))


def library_files(model: Model) -> tuple[Path, ...]:
    """Everything whose code computes the model, with adapters and without."""
    library = model.library
    return library.files if library.uses_adapters else (*library.files, packaged_llama_cpp())


def _is_known_to_agree(model: Model, threads: int) -> bool:
    what = f"{IkLlamaCpp.pinned} agrees with {LlamaCpp.pinned}"
    agrees = remembered_verdict(model.path, what)
    if agrees is None:
        agrees = agrees_with_llama_cpp(model, threads)
        remember_verdict(model.path, what, holds=agrees)
        if not agrees:
            told = f"{model.path.name} is computed by llama.cpp, since ik_llama.cpp expects other tokens in it"
            print(f"dragoman engine: {told}", file=sys.stderr)
    return agrees
