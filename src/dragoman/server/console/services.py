"""What the console shows and changes: the parts of the worker that it works with."""

import dataclasses
from collections.abc import Mapping

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.dialects.http.context import HttpOptions
from dragoman.gateway.auth.static_keys import StaticKeyAuthenticator
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.routing.catalog import Catalog
from dragoman.jobs.service.queue import JobQueue
from dragoman.server.health import ReadinessCheck
from dragoman.server.metrics import MetricsSources
from dragoman.server.settings import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsoleServices:
    """The parts."""

    gateway: Gateway
    http: HttpOptions
    keys: StaticKeyAuthenticator
    """Of the settings, without accounts."""
    admin_keys: StaticKeyAuthenticator
    thread: DatabaseThread | None
    """The database of the accounts, or of the usage records. None: there is none."""
    has_accounts: bool
    metrics: MetricsSources
    readiness: ReadinessCheck
    settings: Settings
    """Without secrets."""
    setting_origins: Mapping[str, str]
    """Their keys → where they were set."""

    @property
    def catalog(self) -> Catalog:
        """The deployments of all dialects."""
        return self.metrics.catalog

    @property
    def queue(self) -> JobQueue | None:
        """The queue. None: nothing is queued."""
        return self.metrics.queue

    @property
    def is_open(self) -> bool:
        """Whether everybody who reaches the server may do everything, because it has no keys."""
        return not self.gateway.needs_key

    @property
    def root(self) -> str:
        """The path that the console's URLs begin with, as browsers see it."""
        return self.http.root_path + self.settings.console.base_path
