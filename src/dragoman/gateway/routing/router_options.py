"""How the requests of a deployment are routed."""

from typing import Literal

import msgspec

PolicyName = Literal["cache", "least", "weighted", "first"]

DEFAULT_WAIT_SECONDS = 120.0
DEFAULT_MAX_WAITING = 1_000


class RouterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a deployment's router."""

    policy: PolicyName = "cache"
    """How a replica is chosen."""
    wait_seconds: float = DEFAULT_WAIT_SECONDS
    """Time that a request waits for a replica, all its attempts together."""
    max_waiting: int = DEFAULT_MAX_WAITING
    """Requests that may wait for a replica in this process."""
    hedge_after: float | None = None
    """Time without a token after which one more attempt is made beside the first. None: none is."""
