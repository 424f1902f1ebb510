import pytest
from sqlalchemy.exc import IntegrityError

from dragoman.accounts.administration.accounts import (
    AccountNameTaken,
    AccountNotFound,
    DepositRefused,
    create_account,
    deposit,
    find_account,
    list_accounts,
    list_deposits,
)
from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.database.connections import Database
from dragoman.core.money import MAX_AMOUNT, InvalidAmount


def test_an_account_is_found_by_number_and_by_name(database: Database) -> None:
    account = create_account(database, "acme", "EUR")
    assert account.currency == "EUR"
    assert find_account(database, "acme") == find_account(database, str(account.id)) == account
    for unknown in ("nobody", "99"):
        with pytest.raises(AccountNotFound, match=unknown):
            find_account(database, unknown)


def test_names_are_unique_and_not_numbers(database: Database) -> None:
    create_account(database, "acme")
    with pytest.raises(AccountNameTaken, match="acme"):
        create_account(database, "acme")
    for name in ("", "  ", "17"):
        with pytest.raises(ValueError, match="may not be called"):
            create_account(database, name)
    assert [account.name for account in list_accounts(database)] == ["acme"]


@pytest.mark.parametrize("name", [" acme", "acme\u00a0", ".", "..", "a/../b", "/a", "a/", "a//b", "a/deposits"])
def test_names_that_no_address_or_header_can_have_are_refused(database: Database, name: str) -> None:
    with pytest.raises(ValueError, match="may not be called"):
        create_account(database, name)
    assert list_accounts(database) == []


def test_deposits_are_listed_newest_first_page_by_page(database: Database) -> None:
    account = create_account(database, "acme")
    made = [deposit(database, account.id, amount, note="cash") for amount in (100, 200, -50)]
    assert find_account(database, "acme").balance == 250
    first = list_deposits(database, account.id, limit=2)
    rest = list_deposits(database, account.id, before=first[-1].id)
    assert [*first, *rest] == made[::-1]
    assert find_discrepancies(database) == []


def test_a_payment_is_booked_once(database: Database) -> None:
    account, other = create_account(database, "acme"), create_account(database, "other")
    booked = deposit(database, account.id, 100, reference="payment 1")
    assert deposit(database, account.id, 100, reference="payment 1") == booked
    assert find_account(database, "acme").balance == 100
    for account_id, amount in ((account.id, 101), (other.id, 100)):
        with pytest.raises(DepositRefused, match="payment 1"):
            deposit(database, account_id, amount, reference="payment 1")


def test_a_payout_does_not_exceed_the_balance(database: Database) -> None:
    account = create_account(database, "acme")
    deposit(database, account.id, 100)
    for amount in (-101, 0):
        with pytest.raises(DepositRefused):
            deposit(database, account.id, amount)
    with pytest.raises(AccountNotFound):
        deposit(database, 99, 1)


def test_a_balance_never_exceeds_64_bits(database: Database) -> None:
    account = create_account(database, "acme")
    deposit(database, account.id, MAX_AMOUNT)
    with pytest.raises(InvalidAmount):
        deposit(database, account.id, 1)
    assert find_account(database, "acme").balance == MAX_AMOUNT


def test_the_database_itself_refuses_totals_that_do_not_add_up(database: Database) -> None:
    account = create_account(database, "acme")
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.exec_driver_sql(f"UPDATE accounts SET balance = balance + 1 WHERE id = {account.id}")
