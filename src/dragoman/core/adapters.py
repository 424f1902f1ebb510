"""LoRA adapters: small changes to a model, each served under a name of its own."""

from typing import Literal

import msgspec


class AdapterSource(msgspec.Struct, frozen=True):
    """Where an adapter comes from. Equal name and equal source mean the same adapter."""

    kind: Literal["local", "hub"]
    name: str
    """local: a file or directory; hub: a repository, `owner/name` or `owner/name:FILE`."""
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
