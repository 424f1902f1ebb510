"""Load a model with the library that computes it fastest, if that library computes it correctly."""

from collections.abc import Callable
from pathlib import Path

from dragoman.core.embedding import ModelKind
from dragoman.engines.llama.native.architectures import TESTED_ARCHITECTURES, WRONG_ARCHITECTURES
from dragoman.engines.llama.native.backend import Backend
from dragoman.engines.llama.native.embedding_context import EmbeddingContext
from dragoman.engines.llama.native.image_projector import ImageProjector
from dragoman.engines.llama.native.libraries.binding import ContextOptions, EmbeddingOptions
from dragoman.engines.llama.native.libraries.builds import IK_LLAMA_CPP, LLAMA_CPP
from dragoman.engines.llama.native.libraries.choice import (
    choose_build,
    choose_embedding_build,
    computes_encoder_faster,
    load_library,
)
from dragoman.engines.llama.native.libraries.llama_cpp import packaged_llama_cpp
from dragoman.engines.llama.native.library_check import (
    computes_same_vectors,
    is_equivalent,
    is_independent_of_batch,
)
from dragoman.engines.llama.native.llama_backend import (
    LlamaBackend,
    LoraFallbackBackend,
    PartitionedBackend,
    SingleContextBackend,
)
from dragoman.engines.llama.native.model import Model, ModelError
from dragoman.engines.llama.native.parallel_contexts import MAX_CONTEXTS, PART_TOKENS, ParallelContexts
from dragoman.engines.llama.weights.cell_size import read_cell_size
from dragoman.engines.llama.weights.gguf_metadata import architecture
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
    """Load a model for embeddings or reranking. Raises LibraryError or ModelError.

    llama.cpp itself tokenizes, whatever computes.
    """
    return Model(load_library(LLAMA_CPP if setting in (None, IK_LLAMA_CPP) else setting), path)


def open_backend(
    model: Model, options: ContextOptions, projector: ImageProjector | None = None, *, partitions: int = 1
) -> Backend:
    """Open a backend for the model and its adapters, with up to `partitions` of KV cells. Raises ModelError.

    With positions in several dimensions, no cells are moved between contexts.
    """
    name = architecture(model.path)
    is_tested = name in TESTED_ARCHITECTURES and not model.has_recurrent_state
    if name in WRONG_ARCHITECTURES or not (is_tested or is_independent_of_batch(model, options.threads)):
        raise ModelError(
            f"{model.path} cannot be served: {model.library.pinned} computes several sequences of it wrongly"
        )
    if model.has_recurrent_state:
        return SingleContextBackend(model, options)
    if projector is not None and projector.has_coordinates:
        return SingleContextBackend(model, options)
    primary = _primary_backend(model, options, partitions if projector is None else 1)
    if model.library.supports_lora:
        return primary
    return LoraFallbackBackend(primary, lambda: LlamaBackend(Model(load_library(LLAMA_CPP), model.path), options))


def _primary_backend(model: Model, options: ContextOptions, partitions: int) -> LlamaBackend:
    """Open several partitions only where attention passes over all cells: flash attention skips those of others."""
    if partitions > 1 and not (model.library.has_flash_attention or model.sliding_window):
        cell_size = read_cell_size(model.path)
        if cell_size is not None:
            return PartitionedBackend(model, options, partitions, cell_size)
    return LlamaBackend(model, options)


def open_embedding_context(
    model: Model, kind: ModelKind, options: ContextOptions, setting: str | None = None
) -> ParallelContexts:
    """Open what computes embeddings or reranking. Raises LibraryError or ModelError.

    An input has at most `options.context_cells` tokens, and no more than the model was trained for. Without a setting,
    llama.cpp computes every model that ik_llama.cpp cannot load or for which the two disagree.
    """
    if model.has_recurrent_state:
        raise ModelError(f"{model.path} has a recurrent state; it cannot be served for embeddings or reranking")
    pooling = read_pooling(model.path, kind)
    longest = min(model.trained_context_length, options.context_cells)
    batch_tokens = options.batch_tokens if pooling.allows_chunks else max(longest, options.batch_tokens)
    count = 1
    if not (pooling.is_causal or options.reproducible) and longest <= PART_TOKENS:
        count, batch_tokens = min(options.threads, MAX_CONTEXTS), 2 * PART_TOKENS
    embedding_options = EmbeddingOptions(
        context_cells=max(longest, batch_tokens),
        batch_tokens=batch_tokens,
        threads=options.threads // count,
        pooling=pooling.type,
    )
    build = LLAMA_CPP if setting is None else setting
    if pooling.is_of_encoder:
        build = choose_embedding_build(setting, model.path, longest=longest, reproducible=options.reproducible)

    def open_contexts(computing: Model) -> ParallelContexts:
        contexts = [EmbeddingContext(computing, embedding_options, longest) for _ in range(count)]
        return ParallelContexts(contexts, options.threads, owns_model=computing is not model)

    if build != IK_LLAMA_CPP:
        return open_contexts(model)
    if setting is None:
        return _open_if_equal(
            lambda: open_contexts(Model(load_library(build), model.path)), lambda: open_contexts(model)
        )
    if not (pooling.is_of_encoder and computes_encoder_faster(model.path, longest)):
        raise ModelError(f"{IK_LLAMA_CPP} does not compute the vectors of {model.path}; serve it with llama.cpp itself")
    return open_contexts(Model(load_library(build), model.path))


def _open_if_equal(
    open_faster: Callable[[], ParallelContexts], open_reference: Callable[[], ParallelContexts]
) -> ParallelContexts:
    """Open what is faster if it loads the model and computes the same vectors, and the reference otherwise."""
    try:
        faster = open_faster()
    except ModelError:
        return open_reference()
    if computes_same_vectors(faster, open_reference):
        return faster
    faster.close()
    return open_reference()


def library_files(model: Model) -> tuple[Path, ...]:
    """Return all library files whose code computes the model, with adapters and without."""
    library = model.library
    return library.files if library.supports_lora else (*library.files, packaged_llama_cpp())
