"""Which engine stands behind which model name."""

from collections.abc import Sequence

import msgspec

from dragoman.core.errors import ModelNotFound
from dragoman.core.service import ServedModel
from dragoman.engines.base import Engine


class Deployment(msgspec.Struct, frozen=True):
    """One served model: the names clients may use and the engine that answers."""

    name: str
    aliases: tuple[str, ...]
    engine: Engine
    dialects: tuple[str, ...] | None = None
    """The dialects that show it; None: all."""


class Catalog:
    """All deployments, in the order of the settings."""

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        """Raises ValueError when two deployments claim one name."""
        self.deployments = tuple(deployments)
        self._by_name: dict[str, Deployment] = {}
        for deployment in deployments:
            for name in (deployment.name, *deployment.aliases):
                if name in self._by_name:
                    raise ValueError(f"two models are called {name!r}")
                self._by_name[name] = deployment

    def shown_in(self, dialect: str) -> "Catalog":
        """Only the deployments that this dialect shows."""
        return Catalog([entry for entry in self.deployments if entry.dialects is None or dialect in entry.dialects])

    def resolve(self, model: str) -> Deployment:
        """The deployment with this name or alias, compared exactly. Raises ModelNotFound."""
        try:
            return self._by_name[model]
        except KeyError:
            raise ModelNotFound(model) from None

    def models(self) -> list[ServedModel]:
        """What clients may ask for."""
        return [
            ServedModel(
                deployment.name, deployment.aliases, deployment.engine.context_length, deployment.engine.fingerprint
            )
            for deployment in self.deployments
        ]
