"""Reloading the settings of a running server: what of them can change, and the one place that does it.

The parent reads and checks everything, then gives all workers their new options at once. A worker builds its app anew
from them. Requests that have begun keep the app that they began with, so that none sees two settings.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec

from dragoman.core import logs
from dragoman.server.settings import Settings
from dragoman.server.settings_loading import SettingsError
from dragoman.server.start_checks import StartupError, check_settings

LIVE_SETTINGS = frozenset(
    {
        *("log_level", "log_format", "access_log", "public_docs", "v1_dialect", "drain_seconds"),
        *("max_body_bytes", "max_body_values", "sse_keep_alive_seconds"),
        *("api_key", "keys", "admin.keys", "allow_adapter_registration", "max_adapter_registrations_per_minute"),
        *("dialect_hosts", "allowed_hosts", "allowed_origins", "trusted_proxies", "allow_unauthenticated"),
        *("ssl_certfile", "ssl_keyfile", "supervision.ready_timeout_seconds"),
        *(f"http.{name}" for name in ("max_head_bytes", "max_url_bytes", "max_headers", "max_connections")),
        *(f"http.{name}" for name in ("head_timeout_seconds", "body_timeout_seconds", "keep_alive_seconds")),
        *("http.max_connections_per_address", "metrics.vllm_names"),
    }
)
"""Keys of the settings that a reload changes. All others need a restart."""

_log = logs.get_logger(__name__)

Apply = Callable[[Settings, int], Awaitable[list[str]]]
"""Gives all workers settings and their generation. Returns what went wrong."""


class ReloadRefused(Exception):
    """The settings were not reloaded, and the server goes on with the old ones. The message is one line for people."""


class ReloadResult(msgspec.Struct, frozen=True, kw_only=True):
    """A reload that was made."""

    generation: int
    """Counts reloads, from 1 for the settings of the start."""
    changed: tuple[str, ...]
    """Settings that have other values now. Certificates are read again even if their paths are the same."""
    restart_needed: tuple[str, ...]
    """Settings that have other values in the file, and keep the old ones until the server is started again."""


class Reloader:
    """Reloads the settings, one reload at a time."""

    def __init__(self, settings: Settings, read: Callable[[], Settings], apply: Apply) -> None:
        """`read` returns the settings as they are set now. Raises SettingsError."""
        self._settings = settings
        self._read = read
        self._apply = apply
        self._generation = 1
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> ReloadResult:
        """Read, check and apply the settings. Raises ReloadRefused."""
        async with self._one_at_a_time:
            try:
                result = await self._reload()
            except ReloadRefused as error:
                _log.error("reload_refused", reason=str(error), generation=self._generation)
                raise
            except Exception as error:  # Whoever reloads would end with it, and no later reload would be answered.
                _log.exception("reload_failed_unexpectedly", generation=self._generation)
                raise ReloadRefused(f"internal error, which the server has logged: {error!r}") from error
        _log.info("settings_reloaded", **msgspec.structs.asdict(result))
        return result

    async def _reload(self) -> ReloadResult:
        try:
            wanted = await asyncio.to_thread(self._read)
            settings, changed, restart_needed = merge(self._settings, wanted)
            check_settings(wanted)
            check_settings(settings)
        except (SettingsError, StartupError) as error:
            raise ReloadRefused(str(error)) from error
        self._generation += 1
        self._settings = settings
        if problems := await self._apply(settings, self._generation):
            raise ReloadRefused("; ".join(problems))
        return ReloadResult(generation=self._generation, changed=changed, restart_needed=restart_needed)


def merge(current: Settings, wanted: Settings) -> tuple[Settings, tuple[str, ...], tuple[str, ...]]:
    """Return the current settings with the live ones of `wanted`, the keys that changed, and those that could not."""
    before, after = dict(_flat(current)), dict(_flat(wanted))
    different = [key for key in after if after[key] != before[key]]
    # The server cannot begin or cease to encrypt: clients know its port by one scheme.
    changes_tls = (current.ssl_certfile is None) != (wanted.ssl_certfile is None)
    fixed = {"ssl_certfile", "ssl_keyfile"} if changes_tls else set()
    live = [key for key in different if key in LIVE_SETTINGS - fixed]
    merged = _replaced(current, {key: after[key] for key in live})
    return merged, tuple(live), tuple(key for key in different if key not in live)


def _flat(settings: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, msgspec.Struct):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _replaced(settings: Settings, values: Mapping[str, Any]) -> Settings:
    groups: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        groups.setdefault(group, {})[name] = value
    top = groups.pop("", {})
    tables = {group: msgspec.structs.replace(getattr(settings, group), **inner) for group, inner in groups.items()}
    return msgspec.structs.replace(settings, **top, **tables)
