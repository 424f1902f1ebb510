"""The settings of the console."""

from typing import Annotated

import msgspec
from msgspec import Meta

from dragoman.core.bodies import BodyRules


class ConsoleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The console, a web interface for operators and for holders of API keys."""

    enabled: bool = True
    """Serve the console, and lead `/` there."""
    base_path: Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9._~-]+)+$")] = "/console"
    """Path that its pages are below. `root_path` stands before it."""
    hosts: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Host names under which it is served. None: all."""
    keep_bodies: bool = False
    """Store what clients send and receive, without headers, so that the console can show it to operators and to the
    account's own keys. Jobs of the queue are not among it. Off: what was stored is deleted at the next start."""
    keep_bodies_days: Annotated[float, Meta(gt=0)] = 7.0
    """Time that bodies are kept."""
    keep_bodies_except: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Names of accounts whose bodies are not stored."""
    max_kept_bytes: Annotated[int, Meta(ge=0)] = 256 * 1024 * 1024
    """Size of all stored bodies together. Above it, the oldest are deleted."""

    @property
    def body_rules(self) -> BodyRules:
        """What is kept, and for how long."""
        if not (self.enabled and self.keep_bodies):
            return BodyRules()
        return BodyRules(self.keep_bodies_days, self.max_kept_bytes, self.keep_bodies_except)
