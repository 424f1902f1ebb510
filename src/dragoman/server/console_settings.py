"""The settings of the console."""

from typing import Annotated

import msgspec
from msgspec import Meta


class ConsoleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The console, a web interface for operators and for holders of API keys."""

    enabled: bool = True
    """Serve the console, and lead `/` there."""
    base_path: Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9._~-]+)+$")] = "/console"
    """Path that its pages are below. `root_path` stands before it."""
    hosts: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Host names under which it is served. None: all."""
