import math
from pathlib import Path

import pytest

from dragoman.core.adapters import AdapterSource
from dragoman.engines.llama.weights.sources import BUNDLED_ID
from dragoman.server.deployment_checks import DeploymentError
from dragoman.server.planning import DeploymentPlan, plan_deployments, with_adapters
from dragoman.server.settings import AdapterSettings, DeploymentSettings, Settings
from dragoman.server.settings_loading import SettingsError, load_settings
from tests.support.tiny_llama import random_weights, write_adapter, write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "tiny.gguf", random_weights(0))
    write_adapter(tmp_path / "pirate.gguf", {})
    write_adapter(tmp_path / "qwen.gguf", {}, architecture="qwen2")
    return tmp_path


def planned(folder: Path, *adapters: AdapterSettings, max_adapters: int = 32, models: int = 2) -> list[DeploymentPlan]:
    deployments = (
        DeploymentSettings(name="tiny", model=str(folder / "tiny.gguf"), aliases=("small",)),
        DeploymentSettings(name="echo", model="echo"),
    )
    settings = Settings(deployments=deployments[:models], adapters=adapters, max_adapters=max_adapters)
    return with_adapters(plan_deployments(settings), settings)


def adapter(folder: Path, name: str, file: str = "pirate.gguf", base: str | None = "tiny") -> AdapterSettings:
    return AdapterSettings(name=name, path=str(folder / file), base=base)


@pytest.mark.parametrize("base", ["tiny", "small"])
def test_an_adapter_is_planned_with_its_base_deployment(folder: Path, base: str) -> None:
    first, second = planned(folder, adapter(folder, "pirate", base=base))
    [record] = first.adapters
    assert second.adapters == ()
    assert record.path == str(folder / "pirate.gguf")
    assert (record.adapter.name, record.adapter.scale) == ("pirate", 1.0)
    assert record.adapter.source == AdapterSource("local", "pirate.gguf")


def test_the_only_model_need_not_be_named(folder: Path) -> None:
    [only] = planned(folder, adapter(folder, "pirate", base=None), models=1)
    assert len(only.adapters) == 1
    settings = Settings(adapters=(adapter(folder, "pirate", base=None),))
    [bundled] = with_adapters(plan_deployments(settings), settings)
    assert (bundled.name, len(bundled.adapters)) == (BUNDLED_ID, 1)


@pytest.mark.parametrize(
    ("name", "file", "base", "expected"),
    [
        ("small", "pirate.gguf", "tiny", "another model or adapter is called small"),
        ("taken", "pirate.gguf", "tiny", "another model or adapter is called taken"),
        ("x", "pirate.gguf", None, "say in base which deployment it is for: tiny, echo"),
        ("x", "pirate.gguf", "big", "its base big is no deployment"),
        ("x", "pirate.gguf", "echo", "its base echo takes no adapters"),
        ("x", "absent.gguf", "tiny", "there is no adapter file "),
        ("x", "tiny.gguf", "tiny", "tiny.gguf is no LoRA adapter"),
        ("x", "qwen.gguf", "tiny", "qwen.gguf is for the architecture qwen2, and tiny is llama"),
    ],
)
def test_an_unusable_adapter_is_reported_in_one_line(
    folder: Path, name: str, file: str, base: str | None, expected: str
) -> None:
    taken = AdapterSettings(name="other", path=str(folder / "pirate.gguf"), base="tiny", aliases=("taken",))
    with pytest.raises(DeploymentError) as caught:
        planned(folder, taken, adapter(folder, name, file, base))
    assert str(caught.value).startswith(f"the adapter {name} cannot be served: {expected}")
    assert "\n" not in str(caught.value)


def test_more_adapters_than_a_model_may_have_are_refused(folder: Path) -> None:
    with pytest.raises(DeploymentError, match="tiny may have 1 adapters; raise max_adapters"):
        planned(folder, adapter(folder, "a"), adapter(folder, "b"), max_adapters=1)


@pytest.mark.parametrize("scale", ["nan", "inf", "101", "'strong'"])
def test_a_scale_is_a_number_with_limits(tmp_path: Path, scale: str) -> None:
    path = tmp_path / "dragoman.toml"
    path.write_text(f'[[adapters]]\nname = "a"\npath = "a.gguf"\nscale = {scale}\n')
    with pytest.raises(SettingsError, match=r"adapters\[0\].scale must be"):
        load_settings(path, {}, {})
    path.write_text('[[adapters]]\nname = "a"\npath = "a.gguf"\nscale = -0.5\n')
    assert math.isclose(load_settings(path, {}, {}).adapters[0].scale, -0.5)
