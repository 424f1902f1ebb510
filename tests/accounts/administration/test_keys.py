import msgspec
import pytest
from sqlalchemy import select

from dragoman.accounts.administration.accounts import AccountNotFound, create_account
from dragoman.accounts.administration.keys import (
    KeyNotFound,
    KeyRules,
    change_key,
    create_key,
    disable_key,
    enable_key,
    get_key,
    list_keys,
)
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import metadata

RULES = KeyRules(
    expires_at=2_000_000_000_000,
    models=("parrot", "owl"),
    dialects=("scale",),
    budget=10**12,
    requests_per_minute=60,
    tokens_per_minute=10_000,
    concurrent_requests=4,
)


def test_a_secret_is_shown_once_and_never_stored(database: Database) -> None:
    account = create_account(database, "acme")
    created = create_key(database, account.id, label="laptop", rules=RULES)
    assert get_key(database, created.key.id) == created.key
    assert created.key.rules == RULES
    assert created.secret.endswith(created.key.ending)
    with database.read() as connection:
        for table in metadata.tables.values():
            assert created.secret not in str(connection.execute(select(table)).all())


def test_a_key_may_use_several_accounts(database: Database) -> None:
    own, other, third = (create_account(database, name).id for name in ("own", "other", "third"))
    key = create_key(database, own, other_accounts=[other]).key
    assert key.account_ids == (own, other)
    assert change_key(database, key.id, other_accounts=[third]).account_ids == (own, third)
    assert list_keys(database, account_id=other) == []
    assert [each.id for each in list_keys(database, account_id=third)] == [key.id]
    for other_accounts in ([99], [own, 99]):
        with pytest.raises(AccountNotFound):
            create_key(database, own, other_accounts=other_accounts)


def test_a_change_leaves_other_fields_as_they_are(database: Database) -> None:
    account = create_account(database, "acme")
    key = create_key(database, account.id, label="laptop", rules=RULES).key
    assert change_key(database, key.id, label="phone").rules == RULES
    changed = change_key(database, key.id, rules=KeyRules(budget=5))
    assert (changed.label, changed.rules) == ("phone", KeyRules(budget=5))


def test_a_key_is_disabled_and_enabled_again(database: Database) -> None:
    account = create_account(database, "acme")
    key = create_key(database, account.id).key
    disabled = disable_key(database, key.id)
    assert disabled.disabled_at is not None
    assert disable_key(database, key.id) == disabled
    assert enable_key(database, key.id) == key
    with pytest.raises(KeyNotFound, match="99"):
        disable_key(database, 99)


@pytest.mark.parametrize("limit", ["budget", "requests_per_minute", "tokens_per_minute", "concurrent_requests"])
def test_a_limit_of_zero_is_refused(database: Database, limit: str) -> None:
    account = create_account(database, "acme")
    with pytest.raises(ValueError, match=f"{limit} is 0"):
        create_key(database, account.id, rules=msgspec.structs.replace(KeyRules(), **{limit: 0}))
