"""LoRA adapters: small changes to a model, each served under a name of its own."""

import re
from typing import Literal

import msgspec

from dragoman.core.errors import BadRequest

_OWNED = re.compile(r"(account [0-9]+|key [0-9]+|key group .+)/.+", re.DOTALL)
"""The qualified names of clients' adapters."""

REGISTERED_ADAPTER_LABEL = "registered adapter"
"""Stands for every adapter of a client in metrics, whose readers are not its owners."""


class AdapterSource(msgspec.Struct, frozen=True):
    """Where an adapter comes from. Equal name and equal source mean the same adapter."""

    kind: Literal["local", "hub", "upstream"]
    name: str
    """local: a file or directory; hub: a repository, `owner/name` or `owner/name:FILE`; upstream: its server's name."""
    revision: str | None = None
    """hub: a branch, tag or commit; None: the main branch."""


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter of a model."""

    name: str
    source: AdapterSource
    created_at: int
    """When it was registered, in Unix seconds."""
    aliases: tuple[str, ...] = ()
    scale: float = 1.0
    """The factor that its change is multiplied by."""
    creator: str = ""
    """The label of the key that registered it; empty: the settings did, or the server has no keys."""
    digest: str = ""
    """SHA-256 of its file, in hex; empty until it is loaded."""
    owner: str = ""
    """Who registered it, as in GenerationRequest: others do not see it. Empty: the operator's, which all may use."""

    @property
    def qualified_name(self) -> str:
        """The name that no other owner's adapter has. The engine, the ledger and the queue know the adapter by it."""
        return f"{self.owner}/{self.name}" if self.owner else self.name

    def is_visible_to(self, owner: str) -> bool:
        """Whether the owner may know of it and use it."""
        return self.owner in ("", owner)


class AdapterSpec(msgspec.Struct, frozen=True):
    """A client's request to serve an adapter."""

    name: str
    source: AdapterSource
    base: str | None = None
    """The model to load it into, by name or alias; None: the model that it fits."""


class RegisteredAdapter(msgspec.Struct, frozen=True):
    """An adapter and the model it belongs to."""

    adapter: Adapter
    base: str
    """The name of the model's deployment."""


def metrics_label(qualified_name: str) -> str:
    """Return the name of a model or adapter for metrics, which shows no client's adapter."""
    return REGISTERED_ADAPTER_LABEL if _OWNED.fullmatch(qualified_name) else qualified_name


def too_many_adapters(owned: int) -> BadRequest:
    """Return the error of an owner that has as many adapters of a model as it may have."""
    return BadRequest(f"You have {owned} adapters of this model already; remove one of them first", "name")
