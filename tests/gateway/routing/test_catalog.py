import pytest

from dragoman.core.errors import ModelNotFound
from dragoman.core.models import ServedModel
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.routing.catalog import Catalog, Deployment
from tests.support.embedding_engines import CountingEmbedder

FIRST = Deployment.of("first", ("owner/first", "1st"), EchoEngine(context_length=100))
SECOND = Deployment.of("second", (), EchoEngine(context_length=200))
CATALOG = Catalog([FIRST, SECOND])


@pytest.mark.parametrize("name", ["first", "owner/first", "1st"])
def test_a_deployment_is_found_by_its_name_and_its_aliases(name: str) -> None:
    assert CATALOG.resolve(name).deployment is FIRST


@pytest.mark.parametrize("name", ["", "First", "first ", "owner/second", "third"])
def test_a_name_is_compared_exactly(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        CATALOG.resolve(name)
    assert caught.value.model == name


def test_models_are_listed_in_the_order_of_the_settings() -> None:
    assert CATALOG.models() == [
        ServedModel(
            id="first",
            aliases=("owner/first", "1st"),
            context_length=100,
            fingerprint=FIRST.fingerprint,
            tool_format="generic",
        ),
        ServedModel(
            id="second",
            aliases=(),
            context_length=200,
            fingerprint=SECOND.fingerprint,
            tool_format="generic",
        ),
    ]


@pytest.mark.parametrize(
    "deployment",
    [
        FIRST,
        Deployment.of("1st", (), SECOND.engines[0]),
        Deployment.of("x", ("first",), SECOND.engines[0]),
    ],
)
def test_two_models_cannot_share_a_name(deployment: Deployment) -> None:
    with pytest.raises(ValueError, match=r"two models are called '(first|1st)'"):
        Catalog([FIRST, deployment])


def test_a_description_follows_what_the_engines_report() -> None:
    engine = EchoEngine(context_length=100)
    catalog = Catalog([Deployment.of("m", (), engine)])
    before = catalog.find_model("m")
    assert catalog.find_model("m") is before, "it is made once"
    engine.context_length, engine.fingerprint = 50, None
    after = catalog.find_model("m")
    assert after is not None
    assert (after.context_length, after.fingerprint) == (50, None)


class LoadingEmbedder(CountingEmbedder):
    """Reports its dimensions when it is loaded."""

    dimensions: int | None = None

    @property
    def embedding_dimensions(self) -> int | None:
        return self.dimensions


def test_the_description_of_a_model_for_embeddings_follows_its_dimensions() -> None:
    engine = LoadingEmbedder()
    catalog = Catalog([Deployment.of("m", (), engine)])
    assert [model.embedding_dimensions for model in catalog.models()] == [None]
    engine.dimensions = 7
    assert [model.embedding_dimensions for model in catalog.models()] == [7]
