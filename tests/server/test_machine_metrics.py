"""The gauges of a server's ledger and disks."""

from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from dragoman.accounts.administration.keys import KeyRules
from dragoman.server.machine_metrics import machine_state
from tests.support.apps import client_of
from tests.support.metered import metered_app, sqlite_account


async def _samples(client: httpx.AsyncClient, key: str) -> dict[str, dict[str, float]]:
    """Return the values of every metric, by folder if it has one."""
    response = await client.get("/metrics", headers={"authorization": f"Bearer {key}"})
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[sample.labels.get("folder", "")] = sample.value
    return found


async def test_metrics_show_the_state_of_the_ledger_and_of_its_disks(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account:
        async with metered_app(account, tmp_path / "journals") as app, client_of(app) as client:
            key = account.new_key()
            samples = await _samples(client, key)
            assert samples["dragoman_database_up"] == {"": 1}
            assert samples["dragoman_ledger_pending_operations"] == {"": 0}
            assert samples["dragoman_ledger_last_answer_timestamp_seconds"][""] > 0
            assert samples["dragoman_ledger_answer_seconds_count"][""] >= 0
            sizes = samples["dragoman_disk_size_bytes"]
            assert sizes.keys() == {"database", "journals"}
            assert all(0 < free <= sizes[folder] for folder, free in samples["dragoman_disk_free_bytes"].items())
            account.database.outage.fail("the disk is full")
            assert (await _samples(client, key))["dragoman_database_up"] == {"": 0}


async def test_a_key_for_some_models_does_not_see_the_machine(tmp_path: Path) -> None:
    with sqlite_account(tmp_path) as account:
        async with metered_app(account, tmp_path / "journals") as app, client_of(app) as client:
            samples = await _samples(client, account.new_key(KeyRules(models=("other",))))
    assert not [name for name in samples if "ledger" in name or "disk" in name or "database" in name]


async def test_a_disk_that_does_not_answer_is_left_out(tmp_path: Path) -> None:
    state = await machine_state(None, str(tmp_path / "gone"))
    assert state == (None, {})
    assert list((await machine_state(None, str(tmp_path))).disks) == ["temporary"]
