import pytest

from dragoman.engines.llama.sources import BUNDLED_ALIASES, BUNDLED_ID
from dragoman.server.deployments import RESERVED_NAMES, DeploymentError, plan
from dragoman.server.settings import DeploymentSettings, Settings


def test_without_settings_the_bundled_model_is_the_one_deployment() -> None:
    [planned] = plan(Settings())
    assert (planned.name, planned.aliases, planned.dialects, planned.load) == (
        BUNDLED_ID,
        BUNDLED_ALIASES,
        None,
        "start",
    )


def test_a_deployment_keeps_its_models_own_names_as_aliases() -> None:
    [planned] = plan(
        Settings(deployments=(DeploymentSettings(name="chat-bot", model=BUNDLED_ID, aliases=("helper",)),))
    )
    assert (planned.name, planned.aliases) == ("chat-bot", ("helper", BUNDLED_ID, *BUNDLED_ALIASES))


def test_two_deployments_cannot_have_one_name() -> None:
    twice = (
        DeploymentSettings(name="a", model="echo", aliases=("b",)),
        DeploymentSettings(name="b", model="echo"),
    )
    with pytest.raises(DeploymentError, match="the deployments a and b are both called b"):
        plan(Settings(deployments=twice))


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_a_name_that_would_shadow_other_paths_is_refused_unless_float16_leaves_it_out(name: str) -> None:
    with pytest.raises(DeploymentError, match=f"/{name}"):
        plan(Settings(deployments=(DeploymentSettings(name=name, model="echo"),)))
    plan(Settings(deployments=(DeploymentSettings(name=name, model="echo", dialects=("arcee",)),)))


def test_a_model_and_deployments_together_are_refused() -> None:
    with pytest.raises(DeploymentError, match="one place"):
        plan(Settings(model="echo", deployments=(DeploymentSettings(name="a", model="echo"),)))
