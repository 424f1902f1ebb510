"""What a reload of the settings changes, and what it refuses."""

import pytest

from dragoman.server.reloading import LIVE_SETTINGS, Reloader, ReloadRefused, ReloadResult, merge
from dragoman.server.settings import HttpSettings, KeySettings, Settings
from dragoman.server.settings_loading import SettingsError, read_settings
from dragoman.server.settings_report import report_settings

KEY = "correct-horse-battery-staple"


def test_live_settings_are_taken_over_and_the_others_named() -> None:
    current = Settings(port=1)
    wanted = Settings(port=2, access_log=True, http=HttpSettings(max_headers=9), workers=2)
    merged, changed, restart_needed = merge(current, wanted)
    assert merged == Settings(port=1, access_log=True, http=HttpSettings(max_headers=9))
    assert set(changed) == {"access_log", "http.max_headers"}
    assert set(restart_needed) == {"port", "workers"}


def test_every_live_setting_exists() -> None:
    keys = {each.key for each in report_settings(read_settings(None, {}, {}))}
    assert keys >= LIVE_SETTINGS


def test_tls_is_neither_begun_nor_ended_by_a_reload() -> None:
    for current, wanted in ((Settings(), Settings(ssl_certfile="c")), (Settings(ssl_certfile="c"), Settings())):
        assert merge(current, wanted) == (current, (), ("ssl_certfile",))
    assert merge(Settings(ssl_certfile="c"), Settings(ssl_certfile="d"))[1] == ("ssl_certfile",)


class AppliedSettings:
    """Takes what a reload applies."""

    def __init__(self, *problems: str) -> None:
        self.taken: list[tuple[Settings, int]] = []
        self._problems = problems

    async def __call__(self, settings: Settings, generation: int) -> list[str]:
        self.taken.append((settings, generation))
        return list(self._problems)


async def test_each_reload_has_a_generation_and_names_what_changed() -> None:
    apply = AppliedSettings()
    wanted = iter([Settings(access_log=True), Settings(access_log=True), Settings(workers=2)])
    reloader = Reloader(Settings(), lambda: next(wanted), apply)
    assert [await reloader.reload() for _ in range(3)] == [
        ReloadResult(generation=2, changed=("access_log",), restart_needed=()),
        ReloadResult(generation=3, changed=(), restart_needed=()),
        ReloadResult(generation=4, changed=("access_log",), restart_needed=("workers",)),
    ]
    assert apply.taken == [(Settings(access_log=True), 2), (Settings(access_log=True), 3), (Settings(), 4)]


def _fail() -> Settings:
    raise SettingsError("dragoman.toml: unknown key prot")


async def test_settings_that_are_wrong_alone_or_together_change_nothing() -> None:
    apply = AppliedSettings()
    with pytest.raises(ReloadRefused, match="unknown key prot"):
        await Reloader(Settings(), _fail, apply).reload()
    open_to_all = Settings(host="0.0.0.0", keys=(KeySettings("k", KEY),))
    with pytest.raises(ReloadRefused, match="there are no keys"):
        await Reloader(open_to_all, lambda: Settings(host="0.0.0.0"), apply).reload()
    with pytest.raises(ReloadRefused, match="there are no keys"):  # The new host is not listened on yet.
        await Reloader(open_to_all, Settings, apply).reload()
    assert apply.taken == []


async def test_a_reload_that_fails_unexpectedly_is_refused_and_the_next_one_is_made() -> None:
    failures = [RuntimeError("Could not determine home directory.")]

    def read_or_fail() -> Settings:
        if failures:
            raise failures.pop()
        return Settings(access_log=True)

    reloader = Reloader(Settings(), read_or_fail, AppliedSettings())
    with pytest.raises(ReloadRefused, match="Could not determine home directory"):
        await reloader.reload()
    assert (await reloader.reload()).changed == ("access_log",)


async def test_workers_that_do_not_follow_are_reported() -> None:
    with pytest.raises(ReloadRefused, match="a worker does not answer"):
        await Reloader(Settings(), Settings, AppliedSettings("a worker does not answer")).reload()
