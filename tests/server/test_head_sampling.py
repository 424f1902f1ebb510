"""Decisions about requests before they have spans: they are those of OpenTelemetry's own samplers."""

import functools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dragoman.gateway.execution.tracing import traceparent
from dragoman.server.head_sampling import HeadSampler, TraceIds, sampling_bounds

SPAN = 0x00F067AA0BA902B7
SAMPLERS = (
    ALWAYS_ON,
    ALWAYS_OFF,
    DEFAULT_ON,
    DEFAULT_OFF,
    *(TraceIdRatioBased(rate) for rate in (0.0, 0.01, 0.5, 1.0)),
    *(ParentBasedTraceIdRatio(rate) for rate in (0.0, 0.01, 0.5, 1.0)),
    ParentBased(ALWAYS_OFF, remote_parent_sampled=TraceIdRatioBased(0.5), remote_parent_not_sampled=DEFAULT_ON),
    ParentBased(ParentBasedTraceIdRatio(0.5), remote_parent_not_sampled=ALWAYS_ON),
)

# The bounds lie among the lower 64 bits, which other generators may leave almost empty.
trace_ids = st.one_of(st.integers(1, 2**128 - 1), st.integers(1, 2**60), st.sampled_from((2**63 - 1, 2**63, 2**64 - 1)))
parents = st.one_of(
    st.none(),
    st.builds("00-{:032x}-{:016x}-{:02x}".format, trace_ids, st.integers(1, 2**64 - 1), st.integers(0, 255)),
    st.from_regex(r"[ \t]?(00|01|ff)-[0-9a-f]{32}-[0-9a-f]{16}-0[01](-x)?[ \t]?", fullmatch=True),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60),
)


class OneId(IdGenerator):
    """Makes one id again and again."""

    def __init__(self, trace_id: int) -> None:
        self.trace_id = trace_id

    def generate_span_id(self) -> int:
        return SPAN

    def generate_trace_id(self) -> int:
        return self.trace_id

    def is_trace_id_random(self) -> bool:
        return True


class Reference:
    """A tracer of OpenTelemetry's own. One is made for each sampler: that takes longer than all decisions."""

    def __init__(self, sampler: Sampler) -> None:
        self.ids = OneId(1)
        self.tracer = TracerProvider(sampler, id_generator=self.ids, shutdown_on_exit=False).get_tracer("test")


reference = functools.cache(Reference)


@given(st.sampled_from(SAMPLERS), trace_ids, parents)
@example(ALWAYS_OFF, 1, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03")
@example(ParentBasedTraceIdRatio(1.0), 1, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fe")
def test_a_request_is_recorded_exactly_if_opentelemetry_would_record_it(
    sampler: Sampler, trace_id: int, parent: str | None
) -> None:
    other = (b"accept", b"*/*")
    sent = [other] if parent is None else [other, (b"traceparent", parent.encode("latin-1"))]
    continued = None if parent is None else TraceContextTextMapPropagator().extract({"traceparent": parent}, Context())
    reference(sampler).ids.trace_id = trace_id
    span = reference(sampler).tracer.start_span("request", continued or Context())
    bounds = sampling_bounds(sampler)
    assert bounds is not None
    ids = TraceIds(OneId(trace_id))
    head_sampler = HeadSampler(bounds, ids)
    unsampled = head_sampler.unsampled_root() if parent is None else head_sampler.unsampled_headers(sent)
    if unsampled is None:
        is_usual = parent is None or (bool(continued) and parent == parent.strip(" \t") and parent[:2] == "00")
        assert span.is_recording() or not is_usual
        assert ids.generate_trace_id() == trace_id, "a span that starts now gets the id that was decided about"
        return
    assert not span.is_recording()
    if isinstance(unsampled, str):
        assert unsampled == traceparent(span.get_span_context())
        return
    assert other in unsampled
    [passed_on] = [value.decode() for name, value in unsampled if name == b"traceparent"]
    is_continued_as_sent = parent is not None and passed_on == parent and not int(parent[-2:], 16) & 1
    assert is_continued_as_sent or passed_on == traceparent(span.get_span_context())


def test_a_request_with_two_places_in_traces_is_left_to_opentelemetry() -> None:
    bounds = sampling_bounds(ALWAYS_OFF)
    assert bounds is not None
    place = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
    assert HeadSampler(bounds, TraceIds(OneId(1))).unsampled_headers([place, place]) is None


class _Own(StaticSampler):
    """A sampler that is not OpenTelemetry's own."""


@pytest.mark.parametrize("sampler", [_Own(Decision.DROP), ParentBased(_Own(Decision.DROP))])
def test_samplers_of_others_decide_about_their_requests_themselves(sampler: Sampler) -> None:
    assert sampling_bounds(sampler) is None


def test_what_is_recorded_without_being_sampled_is_recorded() -> None:
    bounds = sampling_bounds(StaticSampler(Decision.RECORD_ONLY))
    assert bounds is not None
    assert HeadSampler(bounds, TraceIds(OneId(1))).unsampled_root() is None
