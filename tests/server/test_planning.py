import platform
from pathlib import Path

import msgspec
import pytest

from dragoman.engines.llama.weights.sources import BUNDLED_ALIASES, BUNDLED_ID
from dragoman.server.deployment_checks import DeploymentError
from dragoman.server.engine_plans import EchoPlan, LlamaPlan, UpstreamPlan
from dragoman.server.planning import DeploymentPlan, plan_deployments, with_faster_weights
from dragoman.server.reserved_names import RESERVED_NAMES
from dragoman.server.settings import DeploymentSettings, EngineSettings, Settings
from dragoman.server.upstream_settings import UpstreamSettings
from tests.support import minilm
from tests.support.gguf_files import write_tiny_model


def llama_plan(planned: DeploymentPlan) -> LlamaPlan:
    [engine] = planned.engines
    assert isinstance(engine, LlamaPlan)
    return engine


def test_without_settings_the_bundled_model_is_the_one_deployment() -> None:
    [planned] = plan_deployments(Settings())
    assert (planned.name, planned.aliases, planned.dialects) == (BUNDLED_ID, BUNDLED_ALIASES, None)
    assert llama_plan(planned).load == "eager"


def test_a_deployment_keeps_its_models_own_names_as_aliases() -> None:
    [planned] = plan_deployments(
        Settings(deployments=(DeploymentSettings(name="chat-bot", model=BUNDLED_ID, aliases=("helper",)),))
    )
    assert (planned.name, planned.aliases) == ("chat-bot", ("helper", BUNDLED_ID, *BUNDLED_ALIASES))


def test_two_deployments_cannot_have_one_name() -> None:
    twice = (
        DeploymentSettings(name="a", model="echo", aliases=("b",)),
        DeploymentSettings(name="b", model="echo"),
    )
    with pytest.raises(DeploymentError, match="a and b are called b"):
        plan_deployments(Settings(deployments=twice))


@pytest.mark.parametrize("fallback", ["a", "c"])
def test_a_fallback_must_be_another_deployment(fallback: str) -> None:
    deployments = (
        DeploymentSettings(name="a", model="echo", fallbacks=("b",), context_fallbacks=(fallback,)),
        DeploymentSettings(name="b", model="echo"),
    )
    with pytest.raises(DeploymentError, match=f"a falls back to {fallback}, which is not another deployment"):
        plan_deployments(Settings(deployments=deployments))


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_a_reserved_name_is_refused_unless_float16_does_not_serve_it(name: str) -> None:
    with pytest.raises(DeploymentError, match=f"/{name}"):
        plan_deployments(Settings(deployments=(DeploymentSettings(name=name, model="echo"),)))
    plan_deployments(Settings(deployments=(DeploymentSettings(name=name, model="echo", dialects=("arcee",)),)))


def test_a_model_and_deployments_together_are_refused() -> None:
    with pytest.raises(DeploymentError, match="one place"):
        plan_deployments(Settings(model="echo", deployments=(DeploymentSettings(name="a", model="echo"),)))


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="measured there only")
def test_a_slow_model_is_served_from_its_copy_under_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = Settings(
        deployments=(
            DeploymentSettings(name="tiny", model=str(write_tiny_model(tmp_path / "tiny.gguf"))),
            DeploymentSettings(name="loud", model="echo"),
        )
    )
    reported: list[str] = []
    before = plan_deployments(settings)
    tiny, loud = with_faster_weights(before, progress=False, report=reported.append)
    assert llama_plan(tiny).model.path.parent == tmp_path / "dragoman" / "rewritten"
    assert (tiny.name, tiny.aliases, loud) == (before[0].name, before[0].aliases, before[1])
    assert len(reported) == 1


@pytest.mark.parametrize("engine", [EngineSettings(requantize="never"), EngineSettings(llama_library="own.so")])
def test_weights_are_not_rewritten_if_disabled_or_for_an_unmeasured_library(
    engine: EngineSettings,
) -> None:
    plans = plan_deployments(Settings(engine=engine))
    assert with_faster_weights(plans, progress=False, report=pytest.fail) == plans


def test_a_deployment_may_differ_from_the_engine_settings_and_have_replicas() -> None:
    def deployment(**fields: object) -> DeploymentSettings:
        return msgspec.convert({"name": "a", "model": BUNDLED_ID, **fields}, DeploymentSettings)

    engine = EngineSettings(threads=2, max_sequences=8)
    [planned] = plan_deployments(Settings(engine=engine, deployments=(deployment(engine={"threads": 1}, replicas=2),)))
    assert [each.engine for each in planned.engines if isinstance(each, LlamaPlan)] == [
        EngineSettings(threads=1, max_sequences=8)
    ] * 2
    with pytest.raises(msgspec.ValidationError, match="unknown field `thread`"):
        deployment(engine={"thread": 1})
    with pytest.raises(DeploymentError, match="256 replicas"):
        plan_deployments(
            Settings(deployments=tuple(DeploymentSettings(name=f"e{i}", model="echo", replicas=60) for i in range(5)))
        )


def test_prefixes_are_not_saved_without_the_main_memory_that_they_pass_through() -> None:
    engine = EngineSettings(max_saved_prefix_bytes=1000, host_cache_tokens=0)
    with pytest.raises(DeploymentError, match=r"max_saved_prefix_bytes of .* needs host_cache_tokens above 0"):
        plan_deployments(Settings(engine=engine))
    alone = DeploymentSettings(name="a", model=BUNDLED_ID, engine={"host_cache_tokens": 0})
    with pytest.raises(DeploymentError, match="max_saved_prefix_bytes of a needs"):
        plan_deployments(Settings(engine=EngineSettings(max_saved_prefix_bytes=1000), deployments=(alone,)))


def test_shared_prefixes_are_texts_and_files(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("You are a librarian.\n")

    def plan(*prefixes: str) -> tuple[str, ...]:
        deployment = DeploymentSettings(name="a", model=BUNDLED_ID, shared_prefixes=prefixes)
        return llama_plan(plan_deployments(Settings(deployments=(deployment,)))[0]).shared_prefixes

    assert plan("Be kind.", f"@{file}") == ("Be kind.", "You are a librarian.")
    with pytest.raises(DeploymentError, match=r"shared_prefixes of a cannot be read: .*missing.txt"):
        plan(f"@{tmp_path}/missing.txt")
    with pytest.raises(DeploymentError, match="longer than"):
        plan("x" * 20_000, "y" * 20_000)


def test_a_deployment_has_its_own_engines_and_its_upstreams_as_replicas() -> None:
    def engines(**fields: object) -> list[type]:
        deployment = msgspec.convert(
            {"name": "a", "upstreams": [{"url": "http://gpu:8000"}], **fields}, DeploymentSettings
        )
        return [type(engine) for engine in plan_deployments(Settings(deployments=(deployment,)))[0].engines]

    assert engines() == [UpstreamPlan]
    assert engines(model="echo", replicas=2) == [EchoPlan, EchoPlan, UpstreamPlan]


def test_an_upstream_calls_the_model_as_the_deployment_does_unless_it_is_set() -> None:
    upstreams = (UpstreamSettings(url="http://gpu:8000"), UpstreamSettings(url="unix:///run/b.sock", model="b"))
    [planned] = plan_deployments(Settings(deployments=(DeploymentSettings(name="a", upstreams=upstreams),)))
    assert [engine.model for engine in planned.engines if isinstance(engine, UpstreamPlan)] == ["a", "b"]


@pytest.mark.parametrize("url", ["gpu:8000", "http://user:secret@gpu", "ftp://gpu", "http://gpu?key=secret"])
def test_an_unusable_address_of_an_upstream_is_refused_without_being_repeated(url: str) -> None:
    deployment = DeploymentSettings(name="a", upstreams=(UpstreamSettings(url=url),))
    with pytest.raises(DeploymentError, match="an upstream of a cannot be used") as caught:
        plan_deployments(Settings(deployments=(deployment,)))
    assert "secret" not in str(caught.value)


def test_a_server_that_cannot_be_asked_for_its_models_stops_the_start() -> None:
    url = "http://127.0.0.1:1"
    with pytest.raises(DeploymentError, match=f"^{url}: the server does not list its models: "):
        plan_deployments(Settings(model=url))


def test_a_model_is_for_what_its_file_says_unless_embeddings_are_asked_for(tmp_path: Path) -> None:
    encoder = str(minilm.write_gguf(tmp_path / "minilm.gguf", layers=1))
    [by_file] = plan_deployments(Settings(model=encoder))
    assert (by_file.kind, by_file.architecture) == ("embeddings", None)
    [generating] = plan_deployments(Settings())
    settings = DeploymentSettings(name="a", model=BUNDLED_ID, engine={"embeddings": True}, dimensions=(64,))
    [embedding] = plan_deployments(Settings(deployments=(settings,)))
    assert (generating.kind, embedding.kind) == ("generation", "embeddings")
    assert llama_plan(embedding).dimensions == (64,)


def test_the_purpose_of_upstreams_is_set_and_that_of_a_file_is_checked() -> None:
    upstream = UpstreamSettings(url="http://gpu:8000")
    [planned] = plan_deployments(
        Settings(deployments=(DeploymentSettings(name="a", upstreams=(upstream,), purpose="rerank"),))
    )
    assert planned.kind == "rerank"
    with pytest.raises(DeploymentError, match="a cannot be for rerank: its model is for generation"):
        plan_deployments(Settings(deployments=(DeploymentSettings(name="a", model=BUNDLED_ID, purpose="rerank"),)))


def test_the_tokenizer_of_an_upstream_must_be_readable(tmp_path: Path) -> None:
    upstream = UpstreamSettings(url="http://gpu:8000", tokenizer=str(tmp_path / "tokenizer.json"))
    settings = Settings(deployments=(DeploymentSettings(name="a", upstreams=(upstream,)),))
    with pytest.raises(DeploymentError, match=f"an upstream of a cannot be used: the tokenizer {tmp_path}"):
        plan_deployments(settings)
