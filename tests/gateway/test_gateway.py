import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.core.context import Caller, new_request_id
from dragoman.core.egress.urls import UrlRules
from dragoman.core.errors import BadRequest, EngineFailed, InsufficientBalance, ModelNotFound, ShuttingDown
from dragoman.core.events import Delta, Event, Finished, Started, Usage
from dragoman.core.request import ChatPrompt, GenerationRequest, ImagePart, Message, SamplingParams, TextPrompt
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.admission.controller import AdmissionRequest
from dragoman.gateway.admission.recording import UnmeteredAdmission
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.image_fetching import HttpImageFetcher, ImageFetchOptions
from dragoman.gateway.routing.catalog import Catalog, Deployment
from tests.support.echo_engines import AdaptableEcho
from tests.support.image_servers import ImageServer, SeeingEcho
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


class BrokenEngine(EchoEngine):
    """Generates one word and fails: with the error that the prompt names, or by ending without usage."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        assert isinstance(request.prompt, TextPrompt)
        yield Delta(0, "Oh", [1])
        match request.prompt.text:
            case "engine":
                raise EngineFailed("The engine stopped")
            case "request":
                raise BadRequest("The prompt is bad", "prompt")
            case "defect":
                raise ZeroDivisionError
            case "endless":
                await asyncio.Event().wait()


class RecordingEngine(EchoEngine):
    """Records what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[GenerationRequest] = []

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        self.asked.append(request)
        async for event in super().generate(request):
            yield event


class GatewayHarness:
    """A gateway with one model, and its metrics."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.gateway = Gateway(Catalog([Deployment.of("echo", ("parrot",), engine)]), RequestMetrics(self.registry))

    async def answer(self, *prompts: str, n: int = 1, model: str = "echo") -> list[Event]:
        return await collect_events(self.gateway, requests(prompts, n, model))

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"dragoman_{name}_total", {"model": "echo", **labels}) or 0.0


def requests(prompts: Sequence[str], n: int = 1, model: str = "echo") -> list[GenerationRequest]:
    return [
        GenerationRequest(model=model, prompt=TextPrompt(prompt), sampling=SamplingParams(), n=n) for prompt in prompts
    ]


def caller() -> Caller:
    return Caller(request_id=new_request_id(), key=None)


async def collect_events(gateway: Gateway, generation_requests: Sequence[GenerationRequest]) -> list[Event]:
    async with contextlib.aclosing(await gateway.generate(generation_requests, caller())) as events:
        return [event async for event in events]


def texts(events: Sequence[Event]) -> dict[int, str]:
    collected: dict[int, str] = {}
    for event in events:
        if isinstance(event, Delta):
            collected[event.index] = collected.get(event.index, "") + event.text
    return dict(sorted(collected.items()))


class RefusingAdmission(UnmeteredAdmission):
    """Refuses every request at any size."""

    async def check(self, request: AdmissionRequest) -> None:
        raise InsufficientBalance("Insufficient balance", limit=0, used=0, hold=0)


async def test_no_image_is_fetched_for_a_request_that_is_refused_in_any_case() -> None:
    metrics = RequestMetrics(CollectorRegistry())
    catalog = Catalog([Deployment.of("echo", (), SeeingEcho()), Deployment.of("blind", (), EchoEngine())])
    async with ImageServer().running() as server:
        images = HttpImageFetcher(ImageFetchOptions(rules=UrlRules(allow_http=True, allow_private=True)))
        prompt = ChatPrompt(messages=(Message(role="user", content=(ImagePart(server.url()),)),))
        async with images.opened():
            gateway = Gateway(catalog, metrics, admission=RefusingAdmission(), images=images)
            with pytest.raises(InsufficientBalance):
                await gateway.generate([GenerationRequest(model="echo", prompt=prompt)], caller())
            with pytest.raises(BadRequest, match="images"):
                await gateway.generate([GenerationRequest(model="blind", prompt=prompt)], caller())
    assert server.paths == []


async def test_one_prompt_is_answered_with_the_engines_own_events() -> None:
    engine = EchoEngine()
    [request] = requests(["ab"], n=2)
    assert await GatewayHarness(engine).answer("ab", n=2) == [event async for event in engine.generate(request)]


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_engine_knows_whether_tokens_may_wait_for_others(streamed: bool) -> None:
    engine = RecordingEngine()
    execution = await GatewayHarness(engine).gateway.generate(requests(["a"]), caller(), streamed=streamed)
    async for _ in execution:
        pass
    assert [request.is_buffered for request in engine.asked] == [not streamed]


async def test_choices_of_several_prompts_are_counted_prompt_by_prompt() -> None:
    events = await GatewayHarness(EchoEngine()).answer("one", "two", "three", n=2)
    assert texts(events) == {0: "one", 1: "one", 2: "two", 3: "two", 4: "three", 5: "three"}
    assert sorted(event.index for event in events if isinstance(event, Finished)) == list(range(6))


async def test_several_prompts_have_one_usage_at_the_end_and_it_is_their_sum() -> None:
    events = await GatewayHarness(EchoEngine()).answer("one", "three", n=2)
    assert [event for event in events if isinstance(event, Usage)] == [events[-1]]
    assert events[-1] == Usage(prompt_tokens=3 + 5, completion_tokens=2 * (4 + 6), cached_tokens=0)


async def test_only_a_request_of_one_prompt_says_when_it_starts() -> None:
    for prompts, started in ((["one"], [Started(3, 0)]), (["one", "three"], [])):
        events = await GatewayHarness(EchoEngine()).answer(*prompts)
        assert [event for event in events if isinstance(event, Started)] == started


async def test_more_prompts_than_fit_between_engine_and_client_are_all_answered() -> None:
    prompts = [f"prompt {number}" for number in range(128)]
    assert texts(await GatewayHarness(EchoEngine()).answer(*prompts)) == dict(enumerate(prompts))


async def test_only_the_best_candidates_are_returned_and_all_are_counted() -> None:
    harness = GatewayHarness(EchoEngine())
    generation_requests = [msgspec.structs.replace(request, best_of=3) for request in requests(["ab", "cde"], n=2)]
    events = await collect_events(harness.gateway, generation_requests)
    assert texts(events) == {0: "ab", 1: "ab", 2: "cde", 3: "cde"}
    assert events[-1] == Usage(prompt_tokens=5, completion_tokens=3 * (3 + 4), cached_tokens=0)
    assert harness.count("completion_tokens") == 3 * (3 + 4)


async def test_an_alias_is_counted_under_the_models_canonical_name() -> None:
    harness = GatewayHarness(EchoEngine())
    assert texts(await harness.answer("ab", model="parrot")) == {0: "ab"}
    assert harness.count("requests", result="ok") == 1


async def test_a_request_for_an_adapter_goes_to_its_model_and_is_counted_under_the_adapters_name() -> None:
    engine = AdaptableEcho()
    harness = GatewayHarness(engine)
    engine.adapter_host.by_name["pirate"] = Adapter(
        name="pirate", source=AdapterSource("local", "pirate"), created_at=0, aliases=("redbeard",)
    )
    assert texts(await harness.answer("ab", "c", model="redbeard")) == {0: "ab", 1: "c"}
    await harness.answer("ab")
    assert engine.requested_adapters == ["pirate", "pirate", None]
    assert harness.registry.get_sample_value("dragoman_requests_total", {"model": "pirate", "result": "ok"}) == 1
    assert harness.count("requests", result="ok") == 1
    assert await harness.gateway.count_tokens("pirate", TextPrompt("ab")) == 2


async def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ModelNotFound):
        await GatewayHarness(EchoEngine()).answer("ab", model="other")


@pytest.mark.parametrize("prompts", [["engine"], ["engine", "endless"], ["endless", "engine", "endless"]])
async def test_an_error_of_one_prompt_ends_the_whole_request(prompts: list[str]) -> None:
    harness = GatewayHarness(BrokenEngine())
    with pytest.raises(EngineFailed, match="The engine stopped"):
        await asyncio.wait_for(harness.answer(*prompts), TEST_TIMEOUT_SECONDS)
    assert harness.count("requests", result="failed") == 1


@pytest.mark.parametrize("prompts", [["defect"], ["defect", "endless"]])
async def test_a_defect_of_the_engine_ends_the_whole_request(prompts: list[str]) -> None:
    harness = GatewayHarness(BrokenEngine())
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(harness.answer(*prompts), TEST_TIMEOUT_SECONDS)
    assert harness.count("requests", result="failed") == 1


async def test_prompts_that_end_without_usage_leave_the_request_without_usage() -> None:
    events = await asyncio.wait_for(GatewayHarness(BrokenEngine()).answer("silent", "silent"), TEST_TIMEOUT_SECONDS)
    assert events == [Delta(0, "Oh", [1]), Delta(1, "Oh", [1])]


async def test_requests_and_tokens_are_counted() -> None:
    harness = GatewayHarness(EchoEngine())
    await harness.answer("one", "three")
    await harness.answer("ab", n=2)
    assert harness.count("requests", result="ok") == 2
    assert harness.count("prompt_tokens") == 3 + 5 + 2
    assert harness.count("completion_tokens") == 4 + 6 + 2 * 3


async def test_a_failed_request_is_counted_with_the_tokens_it_generated() -> None:
    harness = GatewayHarness(BrokenEngine())
    for prompt, error in (("engine", EngineFailed), ("request", BadRequest)):
        with pytest.raises(error):
            await harness.answer(prompt)
    assert harness.count("requests", result="failed") == 1
    assert harness.count("requests", result="refused") == 1
    assert harness.count("completion_tokens") == 2


@pytest.mark.parametrize("prompts", [["a long prompt"], ["one", "two"]])
async def test_closing_a_request_cancels_all_of_its_work(prompts: list[str]) -> None:
    engine = EchoEngine()
    harness = GatewayHarness(engine)
    async with contextlib.aclosing(await harness.gateway.generate(requests(prompts), caller())) as events:
        await anext(aiter(events))
        assert (await engine.statistics()).running > 0
    assert (await engine.statistics()).running == 0
    assert harness.count("requests", result="cancelled") == 1


async def test_a_draining_gateway_refuses_new_requests_and_finishes_running_ones() -> None:
    harness = GatewayHarness(EchoEngine())
    old = aiter(await harness.gateway.generate(requests(["ab"]), caller()))
    collected = [await anext(old)]
    harness.gateway.drain()
    with pytest.raises(ShuttingDown) as caught:
        await harness.answer("new")
    assert caught.value.retry_after >= 1
    collected += [event async for event in old]
    assert texts(collected) == {0: "ab"}
