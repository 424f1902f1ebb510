"""What a request pays that ends before its usage is known."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.operations import Settlement
from dragoman.accounts.process.journal import AbandonedJournal, Journal, JournalEntry, JournalFolder
from dragoman.core.events import Delta, Event, Started
from dragoman.core.rate_limits import NO_LIMITS
from dragoman.core.request import GenerationRequest, SamplingParams, TextPrompt
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.admission.reservation import EndReason, LedgerReservation
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.execution.request_execution import RequestExecution
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

PROMPT_TOKENS = 10


class CachingEngine(EchoEngine):
    """Has three tokens of each prompt in its cache, and generates one token and no more."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        assert isinstance(request.prompt, TextPrompt)
        yield Started(5, cached_tokens=3)
        yield Delta(0, "Oh", [1])
        await asyncio.Event().wait()


class Reserved:
    """A reservation, the settlements it asks for, and what its journal says."""

    def __init__(self, journal: Journal, *, is_buffered: bool = False) -> None:
        self.settlements: list[Settlement] = []
        self._journal = journal
        self.reservation = LedgerReservation(
            request_id="request",
            account_id=1,
            prompt_tokens=PROMPT_TOKENS,
            is_buffered=is_buffered,
            allowances=NO_LIMITS,
            fallback_models=("cheap",),
            slot=journal.open("request"),
            settle=lambda settlement, _slot: self.settlements.append(settlement),
        )

    @property
    def counts(self) -> tuple[int, int, int]:
        """The tokens of the one settlement: of the prompt, cached, and generated."""
        [settled] = self.settlements
        return settled.prompt_tokens, settled.cached_tokens, settled.completion_tokens

    @property
    def recovered(self) -> JournalEntry:
        """What recovery would charge if the process was killed now."""
        return AbandonedJournal(1, self._journal.path).entries()["request"]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = JournalFolder(tmp_path / "journals").create(new_process_id())
    yield opened
    opened.close()


@pytest.mark.parametrize("reason", ["disconnected", "failed", "finished"])
def test_cached_tokens_are_charged_as_such_however_a_request_ends(journal: Journal, reason: EndReason) -> None:
    reserved = Reserved(journal)
    reserved.reservation.observe_start(4)
    reserved.reservation.observe_tokens(2)
    assert reserved.recovered == JournalEntry("request", PROMPT_TOKENS, 4, 2)
    reserved.reservation.settle(reason)
    assert reserved.counts == (PROMPT_TOKENS, 4, 2)


def test_a_buffered_answer_that_is_left_pays_less_for_cached_tokens(journal: Journal) -> None:
    reserved = Reserved(journal, is_buffered=True)
    reserved.reservation.observe_start(4)
    reserved.reservation.observe_tokens(2)
    reserved.reservation.settle("disconnected")
    assert reserved.counts == (PROMPT_TOKENS, 4, 2)


def test_no_more_tokens_are_cached_than_the_prompt_has(journal: Journal) -> None:
    reserved = Reserved(journal)
    reserved.reservation.observe_start(PROMPT_TOKENS + 1)
    reserved.reservation.observe_tokens(1)
    reserved.reservation.settle("disconnected")
    assert reserved.counts == (PROMPT_TOKENS, PROMPT_TOKENS, 1)


def test_what_the_model_before_a_fallback_had_cached_is_not_charged(journal: Journal) -> None:
    reserved = Reserved(journal)
    reserved.reservation.observe_start(4)
    reserved.reservation.fall_back("cheap")
    reserved.reservation.observe_tokens(1)
    reserved.reservation.settle("disconnected")
    assert reserved.counts == (PROMPT_TOKENS, 0, 1)


@pytest.mark.parametrize("prompts", [1, 2])
async def test_the_cached_tokens_of_each_prompt_are_charged_as_such_when_the_client_leaves(
    journal: Journal, prompts: int
) -> None:
    reserved = Reserved(journal)
    deployment = Deployment(name="m", replicas=(Replica(name="m/0", engine=CachingEngine()),))
    requests = [
        GenerationRequest(model="m", prompt=TextPrompt("Hello"), sampling=SamplingParams(max_tokens=5))
        for _ in range(prompts)
    ]
    timer = RequestMetrics(CollectorRegistry()).start_timer("m")
    execution = RequestExecution(deployment, requests, reserved.reservation, timer)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        received = 0
        async for event in execution:
            received += isinstance(event, Delta)
            if received == prompts:
                break
        await execution.aclose()
    assert reserved.counts == (PROMPT_TOKENS, 3 * prompts, prompts)
