"""The LoRA adapters of an upstream: its list of models has them, and it loads them itself."""

import time
from collections.abc import Sequence
from pathlib import Path

from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.core.errors import BadRequest, Forbidden

MAX_ADAPTERS = 1_000
"""Of one upstream. Those behind them in its list are left out."""


class UpstreamAdapters:
    """Implements engines.base.AdapterHost. An adapter is called as the upstream calls it, behind the deployment's name.

    The upstream's name alone is an alias, so that clients of the upstream need not change.
    """

    architecture = ""
    """No file fits."""

    def __init__(self, deployment: str) -> None:
        self.prefix = f"{deployment}:"
        """Begins their qualified names."""
        self._adapters: dict[str, Adapter] = {}
        """By the upstream's names."""

    def update(self, names: Sequence[str]) -> None:
        """Note the adapters that the upstream has now."""
        now = int(time.time())
        self._adapters = {
            name: self._adapters.get(name)
            or Adapter(
                name=f"{self.prefix}{name}",
                aliases=(name,),
                source=AdapterSource("upstream", name),
                created_at=now,
            )
            for name in names[:MAX_ADAPTERS]
        }

    def forget(self, adapter: str) -> None:
        """Note that the upstream does not know the adapter with this qualified name, until it lists it again."""
        self._adapters.pop(adapter.removeprefix(self.prefix), None)

    def upstream_name(self, adapter: str) -> str | None:
        """Return what the upstream calls the adapter with this qualified name; None: it has none."""
        name = adapter.removeprefix(self.prefix)
        return name if name in self._adapters else None

    def list_adapters(self) -> Sequence[Adapter]:
        """Return the adapters in the upstream's order."""
        return tuple(self._adapters.values())

    async def add(self, adapter: Adapter, path: Path) -> Adapter:  # noqa: ARG002
        raise BadRequest("The model's server loads its adapters itself", "base_model_name")

    async def remove(self, name: str) -> Adapter:
        raise Forbidden(f"The adapter '{name}' belongs to the model's server: only its operator may remove it")
