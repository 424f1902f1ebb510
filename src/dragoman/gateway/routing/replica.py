"""One of the engines that answer for a deployment."""

import msgspec

from dragoman.engines.base import Engine
from dragoman.engines.reported_load import LoadReports


class Replica(msgspec.Struct, frozen=True):
    """One of the engines that answer for a deployment."""

    name: str
    """Names it in logs, metrics and headers."""
    engine: Engine
    priority: int = 0
    """Those with the lowest one are used; the others when none of these can take a request."""
    weight: float = 1.0
    concurrency: int | None = None
    """Requests that may be in flight from this process; None: any number."""
    is_upstream: bool = False
    """Whether it is another server."""
    cache_tokens: int | None = None
    """Tokens of prefixes that its caches hold at most; None: not known."""
    load_reports: LoadReports | None = None
    """What its server reports of the load by others. None: only what this process sends is known."""
    url: str = ""
    """Of another server, for its operator; it holds no secret."""

    @property
    def may_hedge(self) -> bool:
        """Whether a request may be sent to it that another one has too: it costs nothing but time."""
        return "hedging" in self.engine.capabilities

    @property
    def separates_owners(self) -> bool:
        """Whether its prefix cache is one of each owner. In others, all owners share prefixes."""
        return "prefix_isolation" in self.engine.capabilities
