"""What an engine process does with requests: it generates, or it computes embeddings."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dragoman.core.errors import BadRequest
from dragoman.engines.llama.batching.batcher import RequestOutput
from dragoman.engines.llama.batching.scheduler import max_batch_tokens
from dragoman.engines.llama.batching.sequence import RequestKey
from dragoman.engines.llama.embedding.batcher import EmbeddingBatcher
from dragoman.engines.llama.embedding.vectors import reranker_score
from dragoman.engines.llama.native.image_projector import ImageProjector
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.native.parallel_contexts import ParallelContexts
from dragoman.engines.llama.process.embedding_preprocessor import EmbeddingPreprocessor
from dragoman.engines.llama.process.embedding_stepper import EmbeddingStepper
from dragoman.engines.llama.process.image_tokenizer import ImageTokenizer
from dragoman.engines.llama.process.preprocessor import PromptTokenizer
from dragoman.engines.llama.process.stepper import CommandThread
from dragoman.engines.llama.weights.gguf_metadata import architecture
from dragoman.engines.llama.wire.messages import EmbedCommand, GenerateCommand
from dragoman.engines.llama.wire.options import EngineOptions


class PreparedRequest(NamedTuple):
    """A command that was tokenized and validated."""

    start: Callable[[], None]
    """Queue the request. Called from the event loop. Raises ModelNotFound for an adapter that is gone by now."""
    unenforced: Sequence[str] = ()
    """As in events.Unenforced."""


class Workload(NamedTuple):
    """What a model does with requests."""

    tokenizer: PromptTokenizer
    stepper: CommandThread
    prepare: Callable[[RequestKey, GenerateCommand | EmbedCommand], PreparedRequest]
    """Tokenize and validate a command. Called from the tokenizer's thread. Raises BadRequest."""
    embedding_dimensions: int | None = None
    """The values of a whole vector."""


def image_tokenizer(model: Model, projector: ImageProjector | None, options: EngineOptions) -> ImageTokenizer | None:
    """Return what tokenizes prompts with images. None: the model takes none."""
    if projector is None:
        return None
    batch_tokens = max_batch_tokens(options.max_sequences, options.max_batched_tokens)
    return ImageTokenizer(projector, model.vocabulary, batch_tokens)


def embedding_workload(
    model: Model, context: ParallelContexts, options: EngineOptions, publish: Callable[[list[RequestOutput]], None]
) -> Workload:
    """Return the workload of a model for embeddings or reranking. Raises ModelError for another classifier."""
    preprocessor = EmbeddingPreprocessor(
        model,
        context.longest,
        width=context.width,
        dimensions=options.dimensions,
        score=reranker_score(model, architecture(model.path)) if options.kind == "rerank" else None,
    )
    batcher = EmbeddingBatcher(
        context,
        max_batched_tokens=min(options.max_batched_tokens, context.preferred_tokens or options.max_batched_tokens),
        reproducible=options.reproducible,
    )
    stepper = EmbeddingStepper(batcher, max_waiting=options.max_waiting, publish=publish)

    def prepare(key: RequestKey, command: GenerateCommand | EmbedCommand) -> PreparedRequest:
        if isinstance(command, GenerateCommand):
            raise BadRequest("The model generates no text; it is for embeddings or reranking", "model")
        job = preprocessor.preprocess(key, command)
        return PreparedRequest(lambda: stepper.add(job))

    return Workload(preprocessor, stepper, prepare, context.width if options.kind == "embeddings" else None)
