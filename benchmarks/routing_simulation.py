"""A simulation of dragoman replicas behind a router: prefix caches, chunked prefill, batched decoding.

The replicas are modelled; prefix tree, policies and leases are the ones that serve. Time is simulated, so that the
results depend on the seed alone.

A replica keeps the blocks of finished prompts and evicts the least recently used ones. It admits requests to its slots
in order of arrival, alternates steps that prefill with steps that decode, as dragoman's engine does, and its costs per
step are those of the bundled model on two cores (README.md in this folder, *engine*, *step* and *formats*).
"""

import heapq
import itertools
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence

import msgspec

from benchmarks.harness.figures import percentile
from dragoman.gateway.routing.policies import ReplicaLoad, RoutingRequest, choose
from dragoman.gateway.routing.prefix_tree import TOKENS_PER_BLOCK, Blocks, PrefixTree, hash_tokens
from dragoman.gateway.routing.router_options import PolicyName

MAX_SEQUENCES = 16
MAX_BATCHED_TOKENS = 512
CACHE_BLOCKS = 16_384 // TOKENS_PER_BLOCK
"""The defaults of `[engine]`."""

PREFILL_SECONDS_PER_TOKEN = 1 / 549
DECODE_SECONDS, DECODE_SECONDS_PER_SEQUENCE = 0.0042, 0.0031

SCRAPE_SECONDS = 2.0
"""Between two readings of a replica's metrics."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """The requests: a share with prefixes of their own, the others with a few that are Zipf-distributed."""

    replicas: int = 8
    requests: int = 6_000
    requests_per_second: float = 5.0
    cold_share: float = 0.5
    prefixes: int = 64
    zipf_exponent: float = 1.0
    prefix_blocks: tuple[int, int] = (4, 12)
    """The fewest and most blocks of a prefix, shared or not."""
    question_tokens: tuple[int, int] = (20, 120)
    answer_tokens: tuple[int, int] = (32, 160)
    seed: int = 0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy made of the workload."""

    hit_tokens: int
    """Prompt tokens that were in the prefix cache of the replica chosen."""
    prompt_tokens: int
    first_token_p50: float
    first_token_p95: float
    answer_p50: float
    answer_p95: float
    """Seconds from arrival."""
    cold_spread: float
    """The largest distance of a replica's number of cold requests from the mean, as a share of it."""
    busy_share: float
    """The share of time in which replicas compute."""


class _Request(msgspec.Struct, kw_only=True):
    arrived_at: float
    blocks: Blocks
    prompt_tokens: int
    answer_tokens: int
    is_cold: bool
    replica: "_Replica | None" = None
    hit_tokens: int = 0
    to_prefill: int = 0
    generated: int = 0
    first_token_at: float = 0.0
    finished_at: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens


class _Replica:
    """One engine: what it computes, and what it has cached."""

    def __init__(self, number: int) -> None:
        self.id = f"replica-{number}"
        self.load = ReplicaLoad(id=self.id)
        self.waiting: deque[_Request] = deque()
        self.prefilling: list[_Request] = []
        self.decoding: list[_Request] = []
        self.busy_seconds = 0.0
        self.is_computing = False
        self._has_prefilled = False
        self._cache: OrderedDict[bytes, None] = OrderedDict()

    @property
    def kv_usage(self) -> float:
        running = sum(request.tokens for request in (*self.prefilling, *self.decoding))
        return min(1.0, running / (CACHE_BLOCKS * TOKENS_PER_BLOCK))

    def begin_step(self) -> float:
        """Admit requests and begin the next step. Return its seconds; 0: there is nothing to do."""
        while self.waiting and len(self.prefilling) + len(self.decoding) < MAX_SEQUENCES:
            request = self.waiting.popleft()
            request.hit_tokens = self._count_matches(request.blocks) * TOKENS_PER_BLOCK
            request.to_prefill = request.prompt_tokens - request.hit_tokens
            self.prefilling.append(request)
        self._has_prefilled = bool(self.prefilling) and not (self.decoding and self._has_prefilled)
        if self._has_prefilled:
            tokens = min(MAX_BATCHED_TOKENS, sum(request.to_prefill for request in self.prefilling))
            return tokens * PREFILL_SECONDS_PER_TOKEN
        return DECODE_SECONDS + DECODE_SECONDS_PER_SEQUENCE * len(self.decoding) if self.decoding else 0.0

    def end_step(self) -> Iterator[_Request]:
        """End the step. Yield the requests that have a token more."""
        if not self._has_prefilled:
            for request in self.decoding:
                request.generated += 1
            yield from self.decoding
        else:
            yield from self._end_prefill()
        self.decoding = [request for request in self.decoding if request.generated < request.answer_tokens]

    def _end_prefill(self) -> Iterator[_Request]:
        budget = MAX_BATCHED_TOKENS
        for request in self.prefilling:
            done = min(budget, request.to_prefill)
            request.to_prefill -= done
            budget -= done
        complete = [request for request in self.prefilling if not request.to_prefill]
        self.prefilling = [request for request in self.prefilling if request.to_prefill]
        for request in complete:
            self._store(request.blocks)
            request.generated = 1
            self.decoding.append(request)
            yield request

    def _count_matches(self, blocks: Blocks) -> int:
        matches = list(itertools.takewhile(self._cache.__contains__, blocks))
        self._store(tuple(matches))
        return len(matches)

    def _store(self, blocks: Blocks) -> None:
        for block in reversed(blocks):
            self._cache[block] = None
            self._cache.move_to_end(block)
        while len(self._cache) > CACHE_BLOCKS:
            self._cache.popitem(last=False)


class Simulation:
    """One policy in front of replicas with one workload."""

    def __init__(self, policy: PolicyName, workload: Workload) -> None:
        self._policy = policy
        self._workload = workload
        self._replicas = {replica.id: replica for replica in map(_Replica, range(workload.replicas))}
        self._prefixes = PrefixTree(CACHE_BLOCKS)
        self._source = random.Random(f"choices {workload.seed}")
        self._steps: list[tuple[float, int, _Replica]] = []
        self._counter = itertools.count()
        self._scraped_at = 0.0

    def run(self) -> Result:
        """Simulate until every request is answered."""
        requests = list(_requests(self._workload))
        for request in requests:
            self._advance(request.arrived_at)
            self._dispatch(request)
        self._advance(float("inf"))
        return self._result(requests)

    def _advance(self, until: float) -> None:
        """End the steps that end before this time."""
        while self._steps and self._steps[0][0] <= until:
            now, _, replica = heapq.heappop(self._steps)
            for request in replica.end_step():
                if request.generated == 1:
                    request.first_token_at = now
                    self._prefixes.record(replica.id, request.blocks)
                if request.generated == request.answer_tokens:
                    request.finished_at = now
                    _change_load(replica, -1, request)
            self._begin_step(replica, now)

    def _begin_step(self, replica: _Replica, now: float) -> None:
        seconds = replica.begin_step()
        replica.is_computing = seconds > 0
        replica.busy_seconds += seconds
        if replica.is_computing:
            heapq.heappush(self._steps, (now + seconds, next(self._counter), replica))

    def _dispatch(self, request: _Request) -> None:
        now = request.arrived_at
        if now >= self._scraped_at + SCRAPE_SECONDS:
            self._scraped_at = now
            for replica in self._replicas.values():
                replica.load = msgspec.structs.replace(replica.load, kv_usage=replica.kv_usage)
        choice = choose(
            self._policy,
            [replica.load for replica in self._replicas.values()],
            RoutingRequest(blocks=request.blocks),
            prefixes=self._prefixes,
            source=self._source,
        )
        assert choice is not None, "replicas without a limit have a place"
        replica = request.replica = self._replicas[choice.id]
        _change_load(replica, 1, request)
        if choice.is_cold:
            replica.load = msgspec.structs.replace(replica.load, cold_at=now)
        replica.waiting.append(request)
        if not replica.is_computing:
            self._begin_step(replica, now)

    def _result(self, requests: Sequence[_Request]) -> Result:
        first_tokens = [request.first_token_at - request.arrived_at for request in requests]
        answers = [request.finished_at - request.arrived_at for request in requests]
        cold = Counter(request.replica.id for request in requests if request.is_cold and request.replica)
        even = cold.total() / len(self._replicas)
        seconds = max(request.finished_at for request in requests) * len(self._replicas)
        return Result(
            hit_tokens=sum(request.hit_tokens for request in requests),
            prompt_tokens=sum(request.prompt_tokens for request in requests),
            first_token_p50=percentile(first_tokens, 50),
            first_token_p95=percentile(first_tokens, 95),
            answer_p50=percentile(answers, 50),
            answer_p95=percentile(answers, 95),
            cold_spread=max(abs(cold[replica] - even) for replica in self._replicas) / even if even else 0.0,
            busy_share=sum(replica.busy_seconds for replica in self._replicas.values()) / seconds,
        )


def _change_load(replica: _Replica, sign: int, request: _Request) -> None:
    load = replica.load
    replica.load = msgspec.structs.replace(
        load, requests=load.requests + sign, tokens=load.tokens + sign * request.tokens
    )


def _requests(workload: Workload) -> Iterator[_Request]:
    source = random.Random(f"requests {workload.seed}")
    new_ids = itertools.count()

    def new_prefix() -> list[int]:
        blocks = source.randint(*workload.prefix_blocks)
        return list(itertools.islice(new_ids, blocks * TOKENS_PER_BLOCK))

    shared = [new_prefix() for _ in range(workload.prefixes)]
    weights = [1 / rank**workload.zipf_exponent for rank in range(1, workload.prefixes + 1)]
    arrived_at = 0.0
    for _ in range(workload.requests):
        arrived_at += source.expovariate(workload.requests_per_second)
        is_cold = source.random() < workload.cold_share
        prefix = new_prefix() if is_cold else source.choices(shared, weights)[0]
        question = itertools.islice(new_ids, source.randint(*workload.question_tokens))
        prompt = [*prefix, *question]
        yield _Request(
            arrived_at=arrived_at,
            blocks=hash_tokens(prompt),
            prompt_tokens=len(prompt),
            answer_tokens=source.randint(*workload.answer_tokens),
            is_cold=is_cold,
        )
