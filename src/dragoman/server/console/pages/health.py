"""Health: what is checked, the versions, and the settings in effect."""

import os
import platform
import sqlite3
import sys
import time
from collections.abc import Mapping

import msgspec
from starlette.responses import Response

import dragoman
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import migration_status
from dragoman.server.console.page import PageRequest
from dragoman.server.settings import Settings
from dragoman.server.settings_report import report_values

_MAX_CLOCK_DIFFERENCE_MS = 2_000
_LEAST_FREE_SHARE = 0.05

_RELOADED = "reloaded"
"""Where a setting was set that had its default at the start: by a reload, from the same places."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check and what it found."""

    name: str
    is_good: bool
    text: str


class SettingLine(msgspec.Struct, frozen=True, kw_only=True):
    """One setting in effect."""

    name: str
    value: str
    origin: str
    """Where it was set. Empty: it has its default."""


async def show(page: PageRequest) -> Response:
    """Show everything that an operator looks at first when something is wrong."""
    problems = await page.services.readiness.problems()
    gauges = await page.broadcast.gauges()
    checks = [
        Check(
            name=f"Model {model.name}",
            is_good=model.state != "failed" and model.name not in problems.get("not_answering", ()),
            text=model.failure or model.state,
        )
        for model in gauges.models
    ]
    if page.services.has_accounts:
        is_good = "accounts" not in problems
        checks.append(Check(name="Ledger", is_good=is_good, text="answers" if is_good else problems["accounts"]))
    if page.services.thread is not None:
        checks += await page.read(_database_checks)
    else:
        checks.append(Check(name="Records", is_good=False, text="Nothing is recorded: there is no database"))
    return page.render(
        "health.html",
        checks=checks,
        versions={
            "dragoman": dragoman.__version__,
            "Python": platform.python_version(),
            "SQLite": sqlite3.sqlite_version,
            "System": f"{platform.system()} {platform.release()}, {platform.machine()}",
            "Settings": _generation(page),
            "Worker": f"process {os.getpid()}, {len(sys.modules)} modules",
        },
        settings=setting_lines(page.services.settings, page.services.setting_origins),
    )


def setting_lines(settings: Settings, origins: Mapping[str, str]) -> list[SettingLine]:
    """Return all settings in effect by their names in the file, without secrets."""
    default = dict(report_values(Settings()))
    return [
        SettingLine(
            name=key,
            value="not set" if value is None else msgspec.json.encode(value).decode(),
            origin="" if value == default[key] else origins.get(key, _RELOADED),
        )
        for key, value in report_values(settings)
    ]


def _generation(page: PageRequest) -> str:
    state = page.services.metrics.settings
    return "as at the start" if state is None or state.generation == 1 else f"reloaded {state.generation - 1} times"


def _database_checks(database: Database) -> list[Check]:
    began = time.perf_counter()
    status = migration_status(database)
    with database.read() as connection:
        difference = database.now(connection).wall - time.time_ns() // 1_000_000
    milliseconds = (time.perf_counter() - began) * 1000
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    checks = [
        Check(
            name="Database",
            is_good=not status.pending and not status.unknown,
            text=f"{kind}, {len(status.applied)} migrations, answers in {milliseconds:.0f} ms",
        ),
        Check(
            name="Clock",
            is_good=abs(difference) <= _MAX_CLOCK_DIFFERENCE_MS,
            text=f"{abs(difference)} ms from the database's",
        ),
    ]
    return [*checks, _disk_check(database)] if database.is_sqlite else checks


def _disk_check(database: Database) -> Check:
    found = os.statvfs(database.path)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    return Check(
        name="Disk",
        is_good=free >= total * _LEAST_FREE_SHARE,
        text=f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB",
    )
