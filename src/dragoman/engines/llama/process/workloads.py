"""What an engine process does with requests: it generates, or it computes embeddings."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dragoman.core.errors import BadRequest
from dragoman.engines.llama.batching.adapter_watch import AdapterWatch
from dragoman.engines.llama.batching.batcher import Batcher, RequestOutput
from dragoman.engines.llama.batching.sequence import RequestKey
from dragoman.engines.llama.embedding.batcher import EmbeddingBatcher
from dragoman.engines.llama.embedding.vectors import reranker_score
from dragoman.engines.llama.native.backend import Backend
from dragoman.engines.llama.native.image_projector import ImageProjector
from dragoman.engines.llama.native.model import Model, ModelError
from dragoman.engines.llama.native.parallel_contexts import ParallelContexts
from dragoman.engines.llama.process.embedding_preprocessor import EmbeddingPreprocessor
from dragoman.engines.llama.process.embedding_stepper import EmbeddingStepper
from dragoman.engines.llama.process.image_tokenizer import ImageTokenizer
from dragoman.engines.llama.process.preprocessor import PromptTokenizer
from dragoman.engines.llama.process.saved_prefixes import PrefixQuery, SavedPrefixes
from dragoman.engines.llama.process.stepper import CommandThread, Stepper
from dragoman.engines.llama.saved.prefix_budget import SavedPrefixStatistics
from dragoman.engines.llama.weights.gguf_metadata import architecture
from dragoman.engines.llama.wire import messages
from dragoman.engines.llama.wire.messages import GenerateCommand
from dragoman.engines.llama.wire.options import EngineOptions, max_batch_tokens
from dragoman.prompt.template import check_tool_format


class PreparedRequest(NamedTuple):
    """A command that was tokenized and validated."""

    start: Callable[[], None]
    """Queue the request. Called from the event loop. Raises ModelNotFound for an adapter that is gone by now."""
    unenforced: Sequence[str] = ()
    """As in events.Unenforced."""
    prefix: PrefixQuery | None = None
    """What is read from disk before it starts. None: nothing."""


class Workload(NamedTuple):
    """What a model does with requests."""

    tokenizer: PromptTokenizer
    stepper: CommandThread
    prepare: Callable[[RequestKey, messages.RequestCommand], PreparedRequest]
    """Tokenize and validate a command. Called from the tokenizer's thread. Raises BadRequest."""
    embedding_dimensions: int | None = None
    """The values of a whole vector."""
    saved_prefixes: SavedPrefixes | None = None
    """None: none are saved."""


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

    def prepare(key: RequestKey, command: messages.RequestCommand) -> PreparedRequest:
        if isinstance(command, GenerateCommand):
            raise BadRequest("The model generates no text; it is for embeddings or reranking", "model")
        job = preprocessor.preprocess(key, command)
        return PreparedRequest(lambda: stepper.add(job))

    return Workload(preprocessor, stepper, prepare, context.width if options.kind == "embeddings" else None)


def generation_stepper(
    model: Model,
    backend: Backend,
    options: EngineOptions,
    saved: SavedPrefixes | None,
    publish: Callable[[list[RequestOutput]], None],
    *,
    watch: AdapterWatch,
) -> Stepper:
    """Return the stepper of a model that generates text."""
    batcher = Batcher(
        backend,
        model.vocabulary,
        max_sequences=options.max_sequences,
        max_batched_tokens=options.max_batched_tokens,
        host_cache_tokens=options.host_cache_tokens,
        max_draft_tokens=options.max_draft_tokens,
        saver=saved,
        watch=watch,
    )
    stepper = Stepper(
        batcher,
        max_sequences=options.max_sequences,
        max_waiting=options.max_waiting,
        publish=publish,
        saved_statistics=SavedPrefixStatistics if saved is None else saved.statistics,
    )
    if saved is not None:
        saved.connect(stepper, batcher)
    return stepper


def require_tool_format(chat_template: str | None, options: EngineOptions) -> None:
    """Raise ModelError if the model cannot call tools in the format that the options set."""
    if options.tool_format is not None:
        try:
            check_tool_format(chat_template, options.tool_format)
        except ValueError as error:
            raise ModelError(f"{options.model_path} cannot be served: {error}") from error


def tokenized(tokenizer: PromptTokenizer, command: messages.TokenizingCommand) -> messages.EngineReply:
    """Return the reply to a command that tokenizes only. Raises BadRequest."""
    match command:
        case messages.CountTokensCommand(number, prompt):
            return messages.TokenCountReply(number, len(tokenizer.tokenize_prompt(prompt)[0]))
        case messages.CountInputTokensCommand(number, inputs, parameter):
            if not isinstance(tokenizer, EmbeddingPreprocessor):
                raise no_embeddings()
            total = sum(map(len, tokenizer.tokenize_inputs(inputs, parameter)))
            return messages.TokenCountReply(number, total)
        case messages.TokenizeCommand(number, prompt):
            return messages.TokenizedPromptReply(number, tokenizer.prompt_tokens(prompt))
        case messages.DetokenizeCommand(number, token_ids):
            return messages.TextReply(number, tokenizer.detokenize(token_ids))


def no_embeddings() -> BadRequest:
    """Make the error about inputs for a model that generates text."""
    return BadRequest("The model has no embeddings; it is for text generation", "model")
