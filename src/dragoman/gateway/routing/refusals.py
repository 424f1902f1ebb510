"""Why a model cannot answer a request."""

from dragoman.core.capabilities import Capability, missing_need
from dragoman.core.embedding import ModelKind
from dragoman.core.errors import BadRequest, DragomanError, ModelNotFound
from dragoman.core.request import GenerationRequest
from dragoman.core.tasks import Task

_LACKS: dict[ModelKind, str] = {
    "generation": "generates no text",
    "embeddings": "has no embeddings",
    "rerank": "does not rerank",
}

_PURPOSES: dict[ModelKind, str] = {
    "generation": "text generation",
    "embeddings": "embeddings",
    "rerank": "reranking",
}


def refusal(
    request: Task, needed: ModelKind, *, model: str, kind: ModelKind, capabilities: frozenset[Capability]
) -> DragomanError:
    """Return the error that names what the request needs and a model of this kind, with these capabilities, lacks."""
    if needed != kind:
        return BadRequest(f"The model '{model}' {_LACKS[needed]}; it is for {_PURPOSES[kind]}", "model")
    need = missing_need(request, capabilities) if isinstance(request, GenerationRequest) else None
    if need is None:  # The adapter is gone.
        return ModelNotFound(request.model)
    return BadRequest(f"The model '{model}' does not support {need.description}", need.parameter)
