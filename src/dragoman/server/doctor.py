"""Checks of everything that a server with these settings needs, without starting one and without changing anything."""

import contextlib
import functools
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from dragoman.accounts.database.connections import Database, DatabaseUnavailable
from dragoman.accounts.database.migrations import (
    DatabaseOutdated,
    DatabaseTooNew,
    migration_status,
    require_current,
    require_writable,
)
from dragoman.core.user_paths import user_path
from dragoman.engines.llama.weights.gguf_files import ModelSourceError, check_model_file
from dragoman.engines.llama.weights.model_numbers import check_model_numbers
from dragoman.engines.llama.weights.sources import BUNDLED_ALIASES, BUNDLED_ID, HUB_REFERENCE, bundled
from dragoman.server.accounts_location import AccountsLocation, AccountsUnavailable, accounts_location, default_location
from dragoman.server.child_commands import saved_prefix_folder
from dragoman.server.control import server_process
from dragoman.server.http_server import RESERVED_DESCRIPTORS
from dragoman.server.planning import ECHO, URL_BEGINNINGS
from dragoman.server.runtime_folder import folders_in_use
from dragoman.server.settings import Settings
from dragoman.server.start_checks import StartupError, check_settings
from dragoman.server.tls import CertificateError, certificate_expiry
from dragoman.server.upstream_checks import UpstreamUnwell, ask_upstream, named_upstreams
from dragoman.server.upstream_settings import UpstreamSettings

State = Literal["ok", "warning", "failed"]

_DAY_SECONDS = 86_400
_EXPIRY_WARNING_DAYS = 14

_LITTLE_SPACE, _NO_SPACE = 2 * 1024**3, 200 * 1024**2
"""Bytes on a disk below which it is a warning or a failure."""

_MAX_CLOCK_DIFFERENCE_SECONDS = 5.0

_RECOMMENDED_FILES = 65_536

_LOAD_SECONDS = 60.0


class Finding(NamedTuple):
    """The result of one check."""

    subject: str
    state: State
    message: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Check everything, one after the other. No check raises."""
    models = _own_models(settings)
    yield from _settings(settings)
    yield from _certificate(settings)
    yield from _database(settings)
    yield from _disks(settings)
    yield from _files(settings)
    if set(models) - {ECHO}:
        yield from _library()
    for model in models:
        yield _guarded(f"model {model or BUNDLED_ID}", lambda model=model: _model(model))  # type: ignore[misc]
    yield from _upstreams(settings)
    yield from _servers()


def _own_models(settings: Settings) -> list[str | None]:
    """Return the models of this server's own engines; None is the bundled one. Other servers need nothing here."""
    if settings.deployments:
        return [each.model for each in settings.deployments if each.model is not None or not each.upstreams]
    return [] if (settings.model or "").startswith(URL_BEGINNINGS) else [settings.model]


def _guarded(subject: str, check: Callable[[], str], *, state: State = "ok") -> Finding:
    """Return the finding of a check that returns a message, or raises one of the errors for people."""
    try:
        return Finding(subject, state, check())
    except _Warning as warning:
        return Finding(subject, "warning", str(warning))
    except (
        *(StartupError, CertificateError, AccountsUnavailable, ModelSourceError),
        *(DatabaseUnavailable, DatabaseOutdated, DatabaseTooNew, OSError),
    ) as error:
        return Finding(subject, "failed", str(error))


class _Warning(Exception):
    """The server would run, but not well. The message is one line for people."""


def _settings(settings: Settings) -> Iterator[Finding]:
    def check() -> str:
        check_settings(settings)
        return "valid together"

    yield _guarded("settings", check)


def _upstreams(settings: Settings) -> Iterator[Finding]:
    def check(upstream: UpstreamSettings, deployment: str) -> str:
        try:
            return ask_upstream(upstream, deployment)
        except UpstreamUnwell as error:  # The server starts without it, and asks it again.
            raise _Warning(str(error)) from error

    for deployment in settings.deployments:
        for name, upstream in named_upstreams(deployment):
            yield _guarded(f"upstream {name}", functools.partial(check, upstream, deployment.name))


def _certificate(settings: Settings) -> Iterator[Finding]:
    def check() -> str:
        seconds = certificate_expiry(settings) - time.time()
        days = int(seconds // _DAY_SECONDS)
        if seconds <= 0:
            raise CertificateError("the certificate has expired")
        if days < _EXPIRY_WARNING_DAYS:
            raise _Warning(f"the certificate expires in {days} days")
        return f"the certificate expires in {days} days"

    if settings.ssl_certfile is not None:
        yield _guarded("tls", check)


def _location(settings: Settings) -> AccountsLocation | None:
    location = accounts_location(settings.accounts)
    return default_location() if location is None and settings.record_usage else location


def _database(settings: Settings) -> Iterator[Finding]:
    def check() -> str:
        location = _location(settings)
        if location is None:
            return "none is used"
        database = Database(location.url, answer_seconds=5)
        try:
            if not migration_status(database).applied:
                return "reachable; the first start creates the tables"
            require_current(database)
            require_writable(database)
            with database.read() as connection:
                difference = abs(database.now(connection).wall / 1000 - time.time())
        finally:
            database.close()
        if difference > _MAX_CLOCK_DIFFERENCE_SECONDS:
            raise _Warning(f"its clock and this machine's differ by {difference:.0f} seconds")
        return "reachable, with the tables of this version"

    yield _guarded("database", check)


def _disks(settings: Settings) -> Iterator[Finding]:
    folders = {"temporary files": Path(tempfile.gettempdir())}
    try:
        location = _location(settings)
    except AccountsUnavailable:
        location = None  # The finding about the database says so.
    if location is not None:
        folders["journals"] = location.journal_dir
        if location.url.startswith("sqlite"):
            folders["database file"] = Path(location.url.partition("///")[2]).parent
    if settings.engine.max_saved_prefix_bytes:
        with contextlib.suppress(AccountsUnavailable):  # The finding about the database says so.
            folders["saved prefixes"] = saved_prefix_folder(settings.engine)
    for name, folder in folders.items():
        yield _guarded(f"disk of {name}", lambda folder=folder: _disk(folder))  # type: ignore[misc]


def _disk(folder: Path) -> str:
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not os.access(existing, os.W_OK):
        raise StartupError(f"{existing} is not writable")
    free = shutil.disk_usage(existing).free
    message = f"{free / 1024**3:.1f} GiB are free at {existing}"
    if free < _NO_SPACE:
        raise StartupError(message)
    if free < _LITTLE_SPACE:
        raise _Warning(message)
    return message


def _files(settings: Settings) -> Iterator[Finding]:
    def check() -> str:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = settings.http.max_connections + RESERVED_DESCRIPTORS
        if limit != resource.RLIM_INFINITY and limit < wanted:
            raise _Warning(
                f"a process may open {limit} files, and a worker with {settings.http.max_connections} connections "
                f"needs {wanted}; raise the limit (ulimit -n {_RECOMMENDED_FILES}, LimitNOFILE=)"
            )
        return "unlimited" if limit == resource.RLIM_INFINITY else f"a process may open {limit}"

    yield _guarded("open files", check)


def _library() -> Iterator[Finding]:
    """Load llama.cpp in a process of its own: a library that does not fit the machine can end the process."""

    def check() -> str:
        program = [sys.executable, "-c", "import xllamacpp"]
        try:
            loaded = subprocess.run(program, check=False, capture_output=True, text=True, timeout=_LOAD_SECONDS)
        except subprocess.TimeoutExpired:
            raise StartupError(f"llama.cpp was not loaded within {_LOAD_SECONDS:.0f} seconds") from None
        if loaded.returncode:
            lines = loaded.stderr.strip().splitlines() or [f"the process ended with status {loaded.returncode}"]
            advice = "; install the system's package libgomp1" if "libgomp" in lines[-1] else ""
            raise StartupError(f"llama.cpp cannot be loaded: {lines[-1]}{advice}")
        return "llama.cpp can be loaded"

    yield _guarded("library", check)


def _model(model: str | None) -> str:
    if model == ECHO:
        return "needs no file"
    if model is None or model in (BUNDLED_ID, *BUNDLED_ALIASES):
        return str(bundled().path)
    path = user_path(model)
    reference = HUB_REFERENCE.fullmatch(model)
    if path.exists() or reference is None:
        found = check_model_file(path)
        check_model_numbers(found)
        return str(found)
    if importlib.util.find_spec("huggingface_hub") is None:
        raise StartupError("the package huggingface_hub is missing")
    from dragoman.engines.llama.weights import hub

    files = hub.cached_files().get(reference["repository"])
    if not files:
        raise _Warning("it is not in the Hugging Face cache; the start downloads it")
    return f"{len(files)} files of the repository are in the Hugging Face cache"


def _servers() -> Iterator[Finding]:
    running = [str(number) for folder in folders_in_use() if (number := server_process(folder)) is not None]
    if running:
        yield Finding("servers", "ok", f"this user runs the processes {', '.join(running)}")
