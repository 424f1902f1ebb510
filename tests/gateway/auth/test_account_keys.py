"""What a client sees of the ledger's errors, which know neither its key nor the name of the model that it sent."""

from pathlib import Path

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.core import errors
from dragoman.core.context import Caller
from dragoman.core.errors import DragomanError
from dragoman.core.money import InvalidAmount
from dragoman.gateway.auth.account_keys import AccountKeyAuthenticator
from dragoman.gateway.ledger_connection import AccountsOptions, LedgerConnection

CALLER = Caller(request_id="0" * 32, key="sk-0123456789abcdef")


@pytest.fixture
def authenticator(tmp_path: Path) -> AccountKeyAuthenticator:
    """Its connection is not opened: what is tested here asks no ledger."""
    return AccountKeyAuthenticator(
        LedgerConnection(
            AccountsOptions(database=Database(f"sqlite:///{tmp_path}/accounts.db"), journals=tmp_path), process_id=1
        )
    )


def test_an_error_about_the_key_shows_its_ending(authenticator: AccountKeyAuthenticator) -> None:
    error = authenticator.in_client_terms(errors.KeyUnknown(), CALLER)
    assert isinstance(error, errors.KeyUnknown)
    assert (error.has_prefix, error.key_suffix) == (True, "cdef")


def test_a_forbidden_model_is_reported_as_an_unknown_one_by_the_name_that_was_sent(
    authenticator: AccountKeyAuthenticator,
) -> None:
    error = authenticator.in_client_terms(errors.ModelNotAllowed("echo"), CALLER, "parrot")
    assert type(error) is errors.ModelNotFound
    assert error.message == "Model 'parrot' not found"


def test_a_price_beyond_the_ledgers_range_is_a_bad_request(authenticator: AccountKeyAuthenticator) -> None:
    error = authenticator.in_client_terms(InvalidAmount("Too much"), CALLER)
    assert isinstance(error, errors.BadRequest)
    assert (error.message, error.parameter) == ("Too much", "max_tokens")


@pytest.mark.parametrize(
    "error", [errors.DialectNotAllowed("scale"), errors.LedgerUnavailable("The database does not answer", 5)]
)
def test_other_errors_stay_as_they_are(authenticator: AccountKeyAuthenticator, error: DragomanError) -> None:
    assert authenticator.in_client_terms(error, CALLER) is error
