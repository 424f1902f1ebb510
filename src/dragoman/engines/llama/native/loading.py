"""Load a model with the library that computes it fastest, if that library computes it correctly."""

from pathlib import Path

from dragoman.core.embedding import ModelKind
from dragoman.engines.llama.native.backend import Backend
from dragoman.engines.llama.native.embedding_context import EmbeddingContext
from dragoman.engines.llama.native.libraries.binding import ContextOptions, EmbeddingOptions
from dragoman.engines.llama.native.libraries.builds import IK_LLAMA_CPP, LLAMA_CPP
from dragoman.engines.llama.native.libraries.choice import choose_build, load_library
from dragoman.engines.llama.native.libraries.llama_cpp import packaged_llama_cpp
from dragoman.engines.llama.native.library_check import is_equivalent, is_independent_of_batch
from dragoman.engines.llama.native.llama_backend import LlamaBackend, LoraFallbackBackend, SingleContextBackend
from dragoman.engines.llama.native.model import Model, ModelError
from dragoman.engines.llama.weights.model_kind import read_pooling


def load_model(path: Path, setting: str | None, options: ContextOptions) -> Model:
    """Load the model for contexts with these options. Raises LibraryError or ModelError.

    Without a setting, llama.cpp serves every model that ik_llama.cpp cannot load or for which the two disagree.
    """
    build = choose_build(setting, path, cells=options.context_cells, reproducible=options.reproducible)
    if build == IK_LLAMA_CPP and setting is None:
        try:
            model = Model(load_library(build), path)
        except ModelError:
            return Model(load_library(LLAMA_CPP), path)  # Its message is the better one.
        if is_equivalent(model, options.threads):
            return model
        model.close()
        build = LLAMA_CPP
    return Model(load_library(build), path)


def load_embedding_model(path: Path, setting: str | None) -> Model:
    """Load a model for embeddings or reranking, which llama.cpp itself computes. Raises LibraryError or ModelError."""
    return Model(load_library(setting or LLAMA_CPP), path)


def open_backend(model: Model, options: ContextOptions) -> Backend:
    """Open a backend for the model and its adapters. Raises ModelError."""
    if model.has_recurrent_state:
        if not is_independent_of_batch(model, options.threads):
            raise ModelError(
                f"{model.path} cannot be served: {model.library.pinned} computes several sequences of it wrongly"
            )
        return SingleContextBackend(model, options)
    primary = LlamaBackend(model, options)
    if model.library.supports_lora:
        return primary
    return LoraFallbackBackend(primary, lambda: LlamaBackend(Model(load_library(LLAMA_CPP), model.path), options))


def open_embedding_context(model: Model, kind: ModelKind, options: ContextOptions) -> EmbeddingContext:
    """Open a context for embeddings or reranking. Raises ModelError.

    An input has at most `options.context_cells` tokens, and no more than the model was trained for.
    """
    if model.has_recurrent_state:
        raise ModelError(f"{model.path} has a recurrent state; it cannot be served for embeddings or reranking")
    pooling = read_pooling(model.path, kind)
    longest = min(model.trained_context_length, options.context_cells)
    embedding_options = EmbeddingOptions(
        context_cells=max(longest, options.batch_tokens),
        batch_tokens=options.batch_tokens if pooling.allows_chunks else max(longest, options.batch_tokens),
        threads=options.threads,
        pooling=pooling.type,
    )
    return EmbeddingContext(model, embedding_options, longest)


def library_files(model: Model) -> tuple[Path, ...]:
    """Return all library files whose code computes the model, with adapters and without."""
    library = model.library
    return library.files if library.supports_lora else (*library.files, packaged_llama_cpp())
