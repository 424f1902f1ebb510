import pytest

from dragoman.accounts.administration.audit_log import Administrator, list_audit_entries
from dragoman.accounts.administration.upstreams import StoredUpstream, UpstreamNotFound, list_upstreams
from dragoman.accounts.database.connections import Database


def added(name: str, *, is_draining: bool = False) -> StoredUpstream:
    return StoredUpstream(
        name=name, deployment="assistant", url="http://gpu:8000", settings="{}", is_draining=is_draining
    )


def test_added_upstreams_get_the_next_free_name(database: Database) -> None:
    admin = Administrator(database, "ada")
    assert [admin.add_upstream("assistant", "http://gpu:8000", "{}").name for _ in range(3)] == [
        "assistant/a1",
        "assistant/a2",
        "assistant/a3",
    ]
    admin.remove_upstream("assistant/a2")
    assert admin.add_upstream("assistant", "http://gpu:8000", "{}").name == "assistant/a2"
    assert admin.add_upstream("other", "http://gpu:8000", "{}").name == "other/a1"
    admin.remove_upstream("other/a1")
    assert list_upstreams(database) == [added(f"assistant/a{number}") for number in (1, 2, 3)]


def test_an_upstream_that_was_added_and_one_of_the_settings_are_drained_alike(database: Database) -> None:
    admin = Administrator(database, "ada")
    admin.add_upstream("assistant", "http://gpu:8000", "{}")
    for _ in range(2):
        admin.drain_upstream("assistant/a1", "assistant", "http://gpu:8000", is_draining=True)
        admin.drain_upstream("assistant/0", "assistant", "http://old:8000", is_draining=True)
    configured, first = list_upstreams(database)
    assert first == added("assistant/a1", is_draining=True)
    assert (configured.name, configured.url, configured.settings, configured.is_draining) == (
        "assistant/0",
        "http://old:8000",
        None,
        True,
    )
    admin.drain_upstream("assistant/a1", "assistant", "http://gpu:8000", is_draining=False)
    assert list_upstreams(database)[1] == added("assistant/a1")


@pytest.mark.parametrize("name", ["assistant/0", "assistant/a1"])
def test_only_what_was_added_is_removed(database: Database, name: str) -> None:
    admin = Administrator(database, "ada")
    admin.drain_upstream("assistant/0", "assistant", "", is_draining=True)
    with pytest.raises(UpstreamNotFound, match=f"{name} was not added"):
        admin.remove_upstream(name)
    assert len(list_upstreams(database)) == 1


def test_changes_of_upstreams_are_recorded(database: Database) -> None:
    admin = Administrator(database, "ada")
    admin.add_upstream("assistant", "http://gpu:8000", "{}")
    admin.drain_upstream("assistant/a1", "assistant", "http://gpu:8000", is_draining=True)
    admin.drain_upstream("assistant/a1", "assistant", "http://gpu:8000", is_draining=False)
    admin.remove_upstream("assistant/a1")
    entries = list_audit_entries(database)
    assert [(each.actor, each.action, each.subject) for each in reversed(entries)] == [
        ("ada", action, "upstream assistant/a1")
        for action in ("add upstream", "drain upstream", "undrain upstream", "remove upstream")
    ]
