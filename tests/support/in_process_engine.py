"""The llama engine in the tests' own process: the preprocessor and the batcher, over a real model."""

from collections.abc import Sequence

from dragoman.core.errors import DragomanError
from dragoman.core.events import Event
from dragoman.engines.llama.batching.batcher import Batcher
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.llama_backend import LlamaBackend
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.process.preprocessor import RequestPreprocessor
from dragoman.engines.llama.wire.messages import GenerateCommand
from tests.support.batching import run_until_idle


class InProcessEngine:
    """Answers lists of requests."""

    def __init__(self, model: Model, options: ContextOptions, *, max_sequences: int, host_cache_tokens: int) -> None:
        self._model = model
        self._max_sequences = max_sequences
        self._max_batched_tokens = options.batch_tokens
        self._host_cache_tokens = host_cache_tokens
        self._backend = LlamaBackend(model, options)
        self._preprocessor = RequestPreprocessor(model, self._backend.cells)

    def generate(self, commands: Sequence[GenerateCommand]) -> list[list[Event]]:
        """Return the events of each request, all answered together. Raises BadRequest.

        The numbers of the commands count from 0. The number is the seed of a request without one.
        """
        batcher = Batcher(
            self._backend,
            self._model.vocabulary,
            max_sequences=self._max_sequences,
            max_batched_tokens=self._max_batched_tokens,
            host_cache_tokens=self._host_cache_tokens,
        )
        outputs = []
        for command in commands:
            request = self._preprocessor.preprocess((0, command.number), command)
            seed = command.number if command.sampling.seed is None else command.sampling.seed
            outputs += batcher.add(request, command.n, seed)
        answers: list[list[Event]] = [[] for _ in commands]
        for (_, number), event in outputs + run_until_idle(batcher):
            assert not isinstance(event, DragomanError), event.message
            answers[number].append(event)
        return answers

    def close(self) -> None:
        self._backend.close()
