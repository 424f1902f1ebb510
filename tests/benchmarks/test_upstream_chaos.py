"""What is promised however upstreams fail. They are processes, since only those can be killed and stopped."""

from pathlib import Path

from tests.support.chaos import chaos
from tests.support.metered import sqlite_account


async def test_upstreams_that_are_killed_paused_reset_and_slowed_break_no_promise(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account_fixture:
        async with chaos(account_fixture, tmp_path / "journals", seed=3) as load:
            await load.run_round(clients=12, faults=8)
        report = load.report
        assert report.violations == []
        assert report.outcomes["whole"], "some are answered all the same"
        assert report.attempts <= report.max_attempts
        account_fixture.assert_settled()
