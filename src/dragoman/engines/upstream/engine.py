"""An upstream as an engine: another server that answers one deployment's requests over HTTP.

It is always asked for a stream, whatever the client wants: only then are tokens counted, cancellations noticed and
failures told apart from long answers.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Iterator, Sequence

import msgspec

from dragoman.core import logs
from dragoman.core.capabilities import Capability, missing_need
from dragoman.core.errors import (
    BadRequest,
    DragomanError,
    EngineFailed,
    ModelNotFound,
    Overloaded,
    UpstreamFailed,
    UpstreamUnavailable,
)
from dragoman.core.events import Event
from dragoman.core.models import TokenizedPrompt
from dragoman.core.request import ChatPrompt, GenerationRequest, Prompt
from dragoman.engines.base import EngineStatistics, Probed, ProbeReport
from dragoman.engines.reported_load import LoadReports
from dragoman.engines.upstream.answer import DONE, BrokenAnswer, UpstreamAnswer
from dragoman.engines.upstream.discovery import DeclaredModel, DiscoveredModel, discover
from dragoman.engines.upstream.failures import error_of, reported_error, requires_completion_limit
from dragoman.engines.upstream.http_client import ReceivedStream, UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamRequest, identifying_headers
from dragoman.engines.upstream.kinds import (
    ANY_CAPABILITY,
    KINDS,
    KindName,
    UpstreamKind,
    with_tokenizer,
    without_tokenizer,
)
from dragoman.engines.upstream.load_metrics import parse_load
from dragoman.engines.upstream.probed_health import ProbedHealth
from dragoman.engines.upstream.request_body import prefix_salt, request_body, request_path
from dragoman.engines.upstream.served_adapters import UpstreamAdapters
from dragoman.engines.upstream.token_counts import KnownTokens, UpstreamTokenizer, WrittenTexts, estimate_tokens
from dragoman.engines.upstream.transport_errors import MISSING_ROUTE, NOT_FOUND, TransportError, UpstreamStatus

LOAD_SECONDS = 2.0
"""Between two looks at the metrics, while the choice between replicas asks for them."""

MAX_LOAD_AGE_SECONDS = 10.0

MISSING_LOAD_SECONDS = 30.0
"""Until the metrics are looked for again that were not there."""

PROBE_SECONDS = 5.0
PROBE_JITTER = 0.2
"""Share by which the time between two probes varies, so that workers do not probe at once."""

PROBES_PER_DISCOVERY = 6
"""The list of models is read with every so many probes; the others ask for the health only."""

REPLY_SECONDS = 5.0

UNBOUNDED_ANSWER_TOKENS = 4096
"""Of a text that is bounded by neither its request nor a known context: servers would end it after 16 tokens."""

METRICS_PATH = "/metrics"
MAX_METRICS_BYTES = 4 * 1024 * 1024

_log = logs.get_logger(__name__)


class UpstreamEngine(Probed):
    """Implements engines.base.Engine."""

    supports_reasoning = True
    tool_format: str | None = None
    fingerprint: str | None = None
    """Not known: another server may change its model at any time."""
    failure: str | None = None

    def __init__(
        self,
        name: str,
        client: UpstreamClient,
        *,
        model: str,
        kind: KindName | None = None,
        tokenizer: KnownTokens | None = None,
        deployment: str | None = None,
        declared: DeclaredModel | None = None,
        reply_seconds: float = REPLY_SECONDS,
    ) -> None:
        """`name` is for logs. `model` is what the upstream calls the model. `kind` None: it is found by probing.

        `tokenizer` counts what it knows instead of the upstream. `deployment` begins the names of adapters; None: it
        is called as the upstream calls the model. `declared` is what the settings say of the model.
        `reply_seconds` is the time that the upstream has to answer a probe, or to count the tokens of a prompt.
        """
        self._reply_seconds = reply_seconds
        self._name = name
        self._client = client
        self._model = model
        self._kind: UpstreamKind | None = None if kind is None else KINDS[kind]
        self._set_kind = kind
        self._declared = declared
        self._tokenizer = tokenizer
        self.adapters = UpstreamAdapters(model if deployment is None else deployment)
        self._discovered: DiscoveredModel | None = None
        self._listed: tuple[str, ...] = ()
        """The names of all its models."""
        self._health = ProbedHealth()
        self._is_model_gone = False
        """Whether the upstream had listed its model, and does not any more."""
        self._probes = 0
        self._takes_completion_limit = False
        """Whether the model refuses `max_tokens` in conversations, as OpenAI's newer ones do."""
        self._running = 0
        self.load_reports = LoadReports(MAX_LOAD_AGE_SECONDS)
        """What the upstream reports of the load by others."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep_probing()), asyncio.create_task(self._keep_reading_load())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._client.close()

    @property
    def ready(self) -> bool:
        return self._health.is_ready and not self._is_model_gone

    @property
    def capabilities(self) -> frozenset[Capability]:
        capabilities = ANY_CAPABILITY if self._kind is None else self._kind.capabilities
        if self._tokenizer is None:
            return capabilities
        # Without a context to compare it with, nobody needs to know that a count is exact.
        is_exact = self._tokenizer.renders_conversations and self.context_length is not None
        return with_tokenizer(capabilities, is_exact=is_exact)

    @property
    def context_length(self) -> int | None:
        return None if self._discovered is None else self._discovered.context_length

    async def count_tokens(self, prompt: Prompt) -> int:
        try:
            with self._translating_failures():
                async with asyncio.timeout(self._reply_seconds):
                    return await self._count_tokens(prompt)
        except TimeoutError:
            raise UpstreamUnavailable("The upstream did not count tokens in time", "timed_out") from None

    async def _count_tokens(self, prompt: Prompt) -> int:
        """Count by the upstream's route. An estimate if a proxy before it does not pass the route on."""
        try:
            return await self._known_tokenizer().count(prompt)
        except UpstreamStatus as failure:
            if failure.status not in MISSING_ROUTE or self._kind is None:
                raise
            _log.warning("upstream_counts_no_tokens", upstream=self._name, status=failure.status)
            self._kind = without_tokenizer(self._kind)
            return await self._known_tokenizer().count(prompt)

    async def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        with self._translating_failures():
            return await self._converting_tokenizer().tokenize(prompt)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        with self._translating_failures():
            return await self._converting_tokenizer().detokenize(token_ids)

    async def statistics(self) -> EngineStatistics:
        return EngineStatistics(running=self._running, waiting=0, kv_cells_used=0, kv_cells_cached=0, kv_cells_total=0)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        answer = UpstreamAnswer(
            n=request.n, prompt_tokens=estimate_tokens(request.prompt), reports_prompt=request.reports_prompt
        )
        upstream_request = await self._translated(request)
        written = None if self._tokenizer is None else WrittenTexts(self._tokenizer)
        self._running += 1
        try:
            async with contextlib.AsyncExitStack() as stack:
                stream = await self._begin_stream(stack, request, upstream_request)
                while received := await stream.read():
                    # Some servers keep streams alive by events without data.
                    chunks = [data for each in received if (data := each.data.strip())]
                    for event in answer.feed([data for data in chunks if data != DONE]):
                        stream.note_token()
                        if written is not None:
                            written.note(event)
                        yield event
                    if answer.is_finished and DONE in chunks:
                        stream.note_last_event()
        except TransportError as failure:
            if not answer.is_finished:  # Otherwise only the usage may be missing.
                raise self._logged(self._error_of(failure, request, answer), str(failure), answer) from None
        except BrokenAnswer as failure:
            if not answer.is_finished:
                raise self._logged(self._reported(failure, answer), failure.message, answer) from None
        finally:
            self._running -= 1
        if not answer.is_finished:
            error = _failure_of(answer, "The upstream ended its answer early")
            raise self._logged(error, "the answer ended early", answer)
        usage = answer.usage()
        if usage.source == "estimated" and written is not None:
            usage = await written.counted(request.prompt, usage)
        yield usage

    async def _begin_stream(
        self, stack: contextlib.AsyncExitStack, request: GenerationRequest, upstream_request: UpstreamRequest
    ) -> ReceivedStream:
        """Send the request, and once more if the model takes another limit of tokens. Raises TransportError."""
        try:
            return await stack.enter_async_context(self._client.stream(upstream_request))
        except UpstreamStatus as failure:
            if self._takes_completion_limit or not requires_completion_limit(failure):
                raise
            self._takes_completion_limit = True
            return await stack.enter_async_context(self._client.stream(await self._translated(request)))

    async def _translated(self, request: GenerationRequest) -> UpstreamRequest:
        """Return the request in the upstream's form. Raises core.errors."""
        kind = self._kind or await self._find_able_kind(request)
        if self._takes_completion_limit:
            kind = msgspec.structs.replace(kind, max_tokens_field="max_completion_tokens")
        model = self._model
        if request.adapter is not None:
            model = self._adapter_name(request.adapter, request.model, kind)
        body = request_body(
            request, kind, model=model, max_tokens=await self._max_tokens(request), salt=prefix_salt(request)
        )
        headers = identifying_headers(request.request_id, request.trace)
        return UpstreamRequest(path=request_path(request), body=msgspec.json.encode(body), headers=headers)

    def _adapter_name(self, adapter: str, requested: str, kind: UpstreamKind) -> str:
        """Return what the upstream calls an adapter. Raises ModelNotFound for one that it has no longer."""
        if (name := self.adapters.upstream_name(adapter)) is None:
            raise ModelNotFound(requested)
        return f"{self._model}:{name}" if kind.names_adapters_behind_model else name

    async def _find_kind(self) -> UpstreamKind:
        """Return the upstream's kind, which is probed if it is not known yet. Raises core.errors."""
        if self._kind is None:
            await self.probe()
        if self._kind is None:
            raise self._health.unreachable()
        return self._kind

    async def _find_able_kind(self, request: GenerationRequest) -> UpstreamKind:
        """Probe the upstream. Raises core.errors; BadRequest if its kind turns out to be unable."""
        kind = await self._find_kind()
        if (need := missing_need(request, kind.capabilities)) is not None:
            raise BadRequest(f"The model '{request.model}' does not support {need.description}", need.parameter)
        return kind

    async def _max_tokens(self, request: GenerationRequest) -> int | None:
        """Return the bound to send. A conversation without one may fill the context."""
        if request.sampling.max_tokens is not None or isinstance(request.prompt, ChatPrompt):
            return request.sampling.max_tokens
        if self.context_length is None:
            return UNBOUNDED_ANSWER_TOKENS
        prompt_tokens = estimate_tokens(request.prompt)
        if prompt_tokens + UNBOUNDED_ANSWER_TOKENS > self.context_length:
            # The estimate is too much rather than too little, and would cut the answer.
            prompt_tokens = await self.count_tokens(request.prompt)
        return max(1, min(UNBOUNDED_ANSWER_TOKENS, self.context_length - prompt_tokens))

    def _converting_tokenizer(self) -> UpstreamTokenizer:
        tokenizer = self._known_tokenizer()
        if not tokenizer.can_convert:
            raise BadRequest("The server of this model does not convert tokens", "model")
        return tokenizer

    def _known_tokenizer(self) -> UpstreamTokenizer:
        return UpstreamTokenizer(self._client, self._kind, self._model, self._tokenizer)

    @contextlib.contextmanager
    def _translating_failures(self) -> Iterator[None]:
        try:
            yield
        except TransportError as failure:
            raise error_of(failure, has_output=False) from None
        except msgspec.MsgspecError:
            raise UpstreamUnavailable("The upstream's response is malformed") from None

    def _error_of(self, failure: TransportError, request: GenerationRequest, answer: UpstreamAnswer) -> DragomanError:
        """Return the error of a failed attempt. What only this request asks for in vain is no fault of the upstream."""
        if isinstance(failure, UpstreamStatus) and failure.status == NOT_FOUND:
            if request.adapter is not None:
                self.adapters.forget(request.adapter)
                return ModelNotFound(request.model)
            if self._lists_model and not isinstance(request.prompt, ChatPrompt):
                return BadRequest(f"The model '{request.model}' does not support text completions", "prompt")
        return error_of(failure, has_output=answer.has_started)

    @property
    def _lists_model(self) -> bool:
        return self._discovered is not None and not self._is_model_gone

    def _reported(self, failure: BrokenAnswer, answer: UpstreamAnswer) -> DragomanError:
        if failure.report and not answer.has_started:
            return reported_error(self._client.without_key(failure.report))
        return _failure_of(answer, failure.message)

    def _logged(self, error: DragomanError, reason: str, answer: UpstreamAnswer) -> DragomanError:
        """Return the error. It is logged unless it is the request's fault."""
        if isinstance(error, EngineFailed | Overloaded):
            _log.warning("upstream_failed", upstream=self._name, reason=reason, had_output=answer.has_started)
        return error

    async def _keep_probing(self) -> None:
        while True:
            await self.probe()
            await asyncio.sleep(_varied(PROBE_SECONDS))

    async def _keep_reading_load(self) -> None:
        while True:
            is_there = not self.load_reports.are_wanted() or await self.read_load()
            await asyncio.sleep(_varied(LOAD_SECONDS if is_there else MISSING_LOAD_SECONDS))

    def _note_models(self, listed: tuple[str, ...], *, has_model: bool) -> None:
        if not has_model and self._discovered is None and listed != self._listed:
            _log.warning("upstream_model_unlisted", upstream=self._name, model=self._model, listed=listed)
        self._listed = listed
        is_gone = not has_model and self._discovered is not None
        if is_gone != self._is_model_gone:
            self._is_model_gone = is_gone
            _log.warning("upstream_model_changed", upstream=self._name, model=self._model, is_gone=is_gone)

    async def read_load(self) -> bool:
        """Read the upstream's metrics, and return whether it has any that say what it works on."""
        names = None if self._kind is None else self._kind.load
        if names is None:
            return False
        load = None
        with contextlib.suppress(TransportError, TimeoutError, ValueError, OverflowError):  # Numbers may be too large.
            async with asyncio.timeout(self._reply_seconds):
                text = await self._client.fetch(UpstreamRequest(path=METRICS_PATH), max_bytes=MAX_METRICS_BYTES)
            prefix = self.adapters.prefix
            load = parse_load(text, names, model=self._model, own_requests=self._running, adapter_prefix=prefix)
        if load is not None:
            self.load_reports.report(load)
        return load is not None

    async def probe(self) -> None:
        """Ask for the health, and now and then for the list of models. No token is ever generated for it."""
        failure: Exception | None = None
        try:
            async with asyncio.timeout(self._reply_seconds):
                await self._ask_for_health()
        except (TransportError, msgspec.MsgspecError, TimeoutError) as error:
            failure = error
        problem = "" if failure is None else str(failure) or "no answer in time"
        self._probes += 1
        kind = None if self._kind is None else self._kind.name
        self.last_probe = ProbeReport(
            is_well=not problem, problem=problem, at=time.monotonic(), kind=kind, models=self._listed
        )
        if self._health.note(failure):
            reason = {"reason": problem} if problem else {}
            _log.info("upstream_readiness_changed", upstream=self._name, ready=self.ready, **reason)

    async def _ask_for_health(self) -> None:
        if self._kind is not None and self._discovered is not None and self._probes % PROBES_PER_DISCOVERY:
            try:
                await self._client.fetch(UpstreamRequest(path=self._kind.health_path))
            except UpstreamStatus as failure:
                if failure.status not in MISSING_ROUTE:
                    raise
            else:
                return
        await self.find_out()

    async def find_out(self) -> None:
        """Ask what the upstream is and serves. Raises TransportError, and MsgspecError for a malformed reply."""
        discovered = await discover(self._client, self._declared)
        found = discovered.find(self._model)
        self._note_models(tuple(model.name for model in discovered.models), has_model=found is not None)
        self._discovered = found or self._discovered
        self.adapters.update(discovered.adapters_of(self._model))
        self._kind = KINDS[self._set_kind or discovered.kind]


def _varied(seconds: float) -> float:
    return seconds * random.uniform(1 - PROBE_JITTER, 1 + PROBE_JITTER)


def _failure_of(answer: UpstreamAnswer, message: str) -> UpstreamFailed:
    return UpstreamFailed(message) if answer.has_started else UpstreamUnavailable(message)
