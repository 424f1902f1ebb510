"""Checks before the start: settings that exclude each other, and whether the database can be used."""

import re
from collections.abc import Callable, Iterable

from dragoman.core import logs
from dragoman.core.addresses import AddressSet, InvalidNetwork
from dragoman.core.context import key_digest
from dragoman.jobs.webhooks.message import InvalidSecret
from dragoman.server.accounts_location import (
    AccountsLocation,
    AccountsUnavailable,
    accounts_location,
    default_location,
)
from dragoman.server.deployment_checks import DeploymentError, check_deployments
from dragoman.server.origins import ANY_ORIGIN, InvalidOrigin, is_loopback_host, parse_host_name, parse_origin
from dragoman.server.queue_options import webhook_options
from dragoman.server.reserved_names import RESERVED_NAMES
from dragoman.server.settings import Settings

_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")

_log = logs.get_logger(__name__)


class StartupError(Exception):
    """The server cannot start. The message is one line for people."""


def has_keys(settings: Settings) -> bool:
    """Whether requests need a key."""
    return bool(settings.client_keys or settings.accounts.database)


def check_settings(settings: Settings) -> None:
    """Check settings that are valid alone and wrong together. Raises StartupError."""
    _check_deployments(settings)
    _check_equal_keys("", ((entry.name, key_digest(entry.key)) for entry in settings.client_keys))
    _check_equal_keys(" of [admin]", ((entry.name, entry.digest) for entry in settings.admin.keys))
    _require_keys_unless_loopback(settings)
    _check_webhook_secret(settings)
    _check_addresses(settings)
    _check_hosts_and_origins(settings)
    _check_root_path(settings)
    _check_certificate(settings)
    _check_console(settings)
    _check_database_url(settings)
    if settings.accounts.database is None and settings.admin.keys:
        raise StartupError("[[admin.keys]] open the administration of accounts, and there are none; set [accounts]")
    if settings.accounts.database is not None and settings.client_keys:
        key = "[[keys]]" if settings.keys else "api_key"
        raise StartupError(
            f"{key} and [accounts] are both set, and a key of the settings belongs to no account; make keys with "
            "dragoman keys create"
        )


def prepare_accounts(settings: Settings) -> AccountsLocation | None:
    """Prepare the database of the accounts; None without accounts. Raises AccountsUnavailable if it cannot be used."""
    location = accounts_location(settings.accounts)
    if location is not None:
        location.prepare()
    return location


def usage_records_location(settings: Settings) -> AccountsLocation | None:
    """Return where a server without accounts records usage; None if nothing is recorded. Its workers prepare it."""
    if not settings.record_usage:
        return None
    try:
        return default_location()
    except AccountsUnavailable as error:
        _log.warning("usage_recording_disabled_without_folder", reason=str(error))
        return None


def _check_equal_keys(kind: str, keys: Iterable[tuple[str, str]]) -> None:
    """Check that no two owners, each given with a digest, have one key: what one does would be said of the other."""
    owners: dict[str, str] = {}
    for name, digest in keys:
        if digest in owners:
            raise StartupError(
                f"the keys {owners[digest]} and {name}{kind} are equal; give each owner a key of its own"
            )
        owners[digest] = name


def _check_deployments(settings: Settings) -> None:
    try:
        check_deployments(settings)
    except DeploymentError as error:
        raise StartupError(str(error)) from None


def _require_keys_unless_loopback(settings: Settings) -> None:
    """Raise StartupError if other machines could use the server without a key and the settings do not allow it."""
    is_local = settings.uds is not None or is_loopback_host(settings.host)
    if has_keys(settings) or settings.allow_unauthenticated or is_local:
        return
    raise StartupError(
        f"every client that reaches {settings.host} could use the server, since there are no keys; add [[keys]] or "
        "[accounts] to the settings, listen on 127.0.0.1, or pass --allow-unauthenticated"
    )


def _check_webhook_secret(settings: Settings) -> None:
    try:
        webhook_options(settings.queue, settings.queue.webhook_secret)
    except InvalidSecret as error:
        raise StartupError(f"queue.webhook_secret {error}") from None


def _check_addresses(settings: Settings) -> None:
    try:
        AddressSet.parse(settings.trusted_proxies)
    except InvalidNetwork as error:
        raise StartupError(f"trusted_proxies: {error}") from None


def _check_hosts_and_origins(settings: Settings) -> None:
    """Raise StartupError for names and origins that no request could have, and for what would let any page in."""
    for key, names in (("dialect_hosts", settings.dialect_hosts), ("allowed_hosts", settings.allowed_hosts)):
        _check_each(key, names, parse_host_name)
    _check_each("allowed_origins", (each for each in settings.allowed_origins if each != ANY_ORIGIN), parse_origin)
    if ANY_ORIGIN in settings.allowed_origins and not has_keys(settings):
        raise StartupError(
            "allowed_origins: with '*' every web page could use the server, since there are no keys; name the origins, "
            "or add [[keys]] or [accounts]"
        )


def _check_root_path(settings: Settings) -> None:
    """Raise StartupError for a path that is none, or that begins the paths of the server itself."""
    path = settings.root_path
    if path is None:
        return
    if not _ROOT_PATH.fullmatch(path):
        raise StartupError(f"root_path must be a path such as /llm, without a slash at its end, got {path!r}")
    first = path.split("/")[1]
    if first in RESERVED_NAMES or any(first == deployment.name for deployment in settings.deployments):
        raise StartupError(f"root_path: paths of the server itself begin with /{first}; choose another")


def _check_certificate(settings: Settings) -> None:
    if (settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_ca_certs) == (None, None, None):
        return
    from dragoman.server.tls import CertificateError, server_context

    try:
        server_context(settings)
    except CertificateError as error:
        raise StartupError(str(error)) from None


def _check_console(settings: Settings) -> None:
    """Raise StartupError for names that no request could have, and for a path of other routes."""
    _check_each("console.hosts", settings.console.hosts, parse_host_name)
    first = settings.console.base_path.split("/")[1]
    if first in RESERVED_NAMES - {"console"} or any(first == deployment.name for deployment in settings.deployments):
        raise StartupError(f"console.base_path: other paths of the server begin with /{first}; choose another")


def _check_database_url(settings: Settings) -> None:
    try:
        accounts_location(settings.accounts)
    except AccountsUnavailable as error:
        raise StartupError(str(error)) from None


def _check_each(key: str, texts: Iterable[str], parse: Callable[[str], str]) -> None:
    for text in texts:
        try:
            parse(text)
        except InvalidOrigin as error:
            raise StartupError(f"{key}: {error}") from None
