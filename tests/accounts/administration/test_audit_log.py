import pytest

from dragoman.accounts.administration.accounts import (
    AccountNameTaken,
    AccountNotFound,
    DepositRefused,
    find_account,
    list_accounts,
)
from dragoman.accounts.administration.audit_log import Administrator, KeyUpdate, list_audit_entries
from dragoman.accounts.administration.keys import KeyRules, get_key
from dragoman.accounts.administration.prices import list_prices
from dragoman.accounts.database.connections import Database
from dragoman.core.money import InvalidAmount


@pytest.fixture
def administrator(database: Database) -> Administrator:
    return Administrator(database, "ada")


def test_every_change_is_recorded_with_its_actor(database: Database, administrator: Administrator) -> None:
    account = administrator.create_account("acme", "EUR")
    administrator.deposit(account.id, 12_500_000_000, reference="payment 1", note="first")
    created = administrator.create_key(account.id, label="laptop", rules=KeyRules(budget=10**9, models=("owl",)))
    administrator.change_key(created.key.id, KeyUpdate(label="desk", disabled=True))
    administrator.change_key(created.key.id, KeyUpdate(disabled=False))
    administrator.revoke_key(created.key.id)
    administrator.set_price("owl", 150, 600, cached=15)
    entries = list_audit_entries(database)[::-1]
    assert [(entry.action, entry.subject) for entry in entries] == [
        ("create account", f"account {account.id}"),
        ("deposit", f"account {account.id}"),
        ("create key", f"key {created.key.id}"),
        ("change key", f"key {created.key.id}"),
        ("change key", f"key {created.key.id}"),
        ("revoke key", f"key {created.key.id}"),
        ("set price", f"price {list_prices(database)[0].id}"),
    ]
    assert {entry.actor for entry in entries} == {"ada"}
    assert entries[1].details["amount"] == "12.50"
    assert entries[2].details["rules"] == {"budget": "1.00", "models": ["owl"]}
    assert entries[6].details["per_million"] == {"prompt": "0.15", "cached": "0.015", "completion": "0.60"}
    assert created.secret not in str(entries)
    assert get_key(database, created.key.id).disabled_at is not None


def test_a_failed_change_changes_nothing_and_is_not_recorded(database: Database, administrator: Administrator) -> None:
    account = administrator.create_account("acme")
    with pytest.raises(AccountNameTaken):
        administrator.create_account("acme")
    with pytest.raises(AccountNotFound):
        administrator.deposit(999, 1)
    with pytest.raises(DepositRefused):
        administrator.deposit(account.id, -1)
    with pytest.raises(AccountNotFound):
        administrator.create_key(account.id, other_accounts=(999,))
    with pytest.raises(InvalidAmount):
        administrator.set_price("owl", -1, 0)
    created = administrator.create_key(account.id)
    with pytest.raises(AccountNotFound):
        administrator.change_key(created.key.id, KeyUpdate(label="lost", other_accounts=(999,)))
    assert get_key(database, created.key.id).label == ""
    assert list_accounts(database) == [account]
    assert [entry.action for entry in list_audit_entries(database)] == ["create key", "create account"]


def test_a_deposit_with_a_reference_is_recorded_once(database: Database, administrator: Administrator) -> None:
    account = administrator.create_account("acme")
    first = administrator.deposit(account.id, 5, reference="payment 1")
    assert administrator.deposit(account.id, 5, reference="payment 1") == first
    assert find_account(database, "acme").deposits == 5
    assert len(list_audit_entries(database)) == 2


def test_changes_are_listed_page_by_page(database: Database, administrator: Administrator) -> None:
    for number in range(5):
        administrator.create_account(f"account of {number}")
    first = list_audit_entries(database, limit=3)
    rest = list_audit_entries(database, before=first[-1].id, limit=3)
    assert [entry.details["name"] for entry in [*first, *rest]] == [f"account of {n}" for n in (4, 3, 2, 1, 0)]
