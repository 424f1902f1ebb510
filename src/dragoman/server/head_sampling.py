"""OpenTelemetry's decision whether a request is recorded, made without a span.

A span that records nothing costs several times the decision. OpenTelemetry's own samplers decide by the parent's flag
and the trace's id, so that two numbers are compared here. Imported only if traces are exported: it needs the extra
`otel`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import TraceFlags

from dragoman.dialects.http.context import TRACE_HEADER

Headers = Sequence[tuple[bytes, bytes]]

_DECIDING_BITS = TraceIdRatioBased.TRACE_ID_LIMIT
_NONE, _ALL = 0, _DECIDING_BITS + 1

# OpenTelemetry accepts more: blanks, and versions to come. It decides about those itself.
_TRACE = re.compile(rb"00-((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")


class SamplingBounds(NamedTuple):
    """Which traces a sampler records: those whose id, of which the lower 64 bits count, is below a bound."""

    root: int
    """For requests that continue no trace."""
    below_sampled: int
    """For those whose parent is recorded."""
    below_unsampled: int
    """For those whose parent is not."""


def sampling_bounds(sampler: Sampler) -> SamplingBounds | None:
    """Return how a sampler decides about requests. None: it is none of OpenTelemetry's, and may decide by anything."""
    if type(sampler) is StaticSampler:
        is_dropping = sampler.should_sample(None, 0, "").decision is Decision.DROP
        return SamplingBounds(*[_NONE if is_dropping else _ALL] * 3)
    if type(sampler) is TraceIdRatioBased:
        return SamplingBounds(*[sampler.bound] * 3)
    if type(sampler) in (ParentBased, ParentBasedTraceIdRatio):
        delegates = (
            _delegate(sampler, name) for name in ("root", "remote_parent_sampled", "remote_parent_not_sampled")
        )
        root, below_sampled, below_unsampled = delegates
        if root is not None and below_sampled is not None and below_unsampled is not None:
            return SamplingBounds(root.root, below_sampled.below_sampled, below_unsampled.below_unsampled)
    return None


def _delegate(sampler: Sampler, name: str) -> SamplingBounds | None:
    found = getattr(sampler, f"_{name}", None)  # It is not public: without it, OpenTelemetry decides.
    return None if found is None else sampling_bounds(found)


class TraceIds(RandomIdGenerator):
    """The ids of another generator, of which that of the next trace can be drawn before its span starts.

    Its base is the type that OpenTelemetry declares for the generators of its providers.
    """

    def __init__(self, generator: IdGenerator) -> None:
        self._generator = generator
        self.next_trace: int | None = None
        """The id that the next trace gets. None: a new one."""

    def generate_span_id(self) -> int:
        return self._generator.generate_span_id()

    def generate_trace_id(self) -> int:
        drawn, self.next_trace = self.next_trace, None
        return self._generator.generate_trace_id() if drawn is None else drawn

    def is_trace_id_random(self) -> bool:
        return self._generator.is_trace_id_random()


class HeadSampler:
    """Decides about the requests that a server receives."""

    def __init__(self, bounds: SamplingBounds, ids: TraceIds) -> None:
        """Decide within `bounds`. `ids` are those that spans get."""
        self._bounds = bounds
        self._ids = ids
        self._flags = TraceFlags.RANDOM_TRACE_ID if ids.is_trace_id_random() else TraceFlags.DEFAULT

    def unsampled_root(self) -> str | None:
        """Return the place of a request in the trace that it begins and that is not recorded, as `traceparent` has it.

        None: OpenTelemetry has to start a span, and does so at once.
        """
        if self._bounds.root == _ALL:
            return None
        trace_id = self._ids.generate_trace_id()
        if trace_id & _DECIDING_BITS < self._bounds.root:
            self._ids.next_trace = trace_id
            return None
        return f"00-{trace_id:032x}-{self._ids.generate_span_id():016x}-{self._flags:02x}"

    def unsampled_headers(self, headers: Headers) -> Headers | None:
        """Return the headers of a request with a `traceparent` that is not recorded, for whoever continues its trace.

        None: OpenTelemetry has to start a span, and does so at once. It records the request, except perhaps one whose
        `traceparent` is not in the usual form.
        """
        parents = [value for name, value in headers if name == TRACE_HEADER]
        match = _TRACE.fullmatch(parents[0])
        if match is None or len(parents) > 1:
            return None
        flags = int(match[2], 16)
        is_sampled = flags & TraceFlags.SAMPLED
        bound = self._bounds.below_sampled if is_sampled else self._bounds.below_unsampled
        if int(match[1], 16) & _DECIDING_BITS < bound:
            return None
        if not is_sampled:
            return headers
        own = b"00-%b-%016x-%02x" % (match[1], self._ids.generate_span_id(), flags & TraceFlags.RANDOM_TRACE_ID)
        return [(TRACE_HEADER, own), *(header for header in headers if header[0] != TRACE_HEADER)]
