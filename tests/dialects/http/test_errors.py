"""The table of errors: nearest classes, overrides, and classes that no table knows."""

import inspect

import pytest

from dragoman.core import errors
from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    ModelLoading,
    ModelNotFound,
    Overloaded,
    RequestRateLimited,
    Unauthenticated,
)
from dragoman.core.rate_limits import Allowance, Allowances
from dragoman.dialects.http.errors import ErrorRule, ErrorTable, error_headers


def test_a_row_of_a_base_class_applies_to_its_subclasses() -> None:
    class SpecialOverflow(ContextOverflow):
        pass

    table = ErrorTable({BadRequest: ErrorRule(status=422)})
    error = SpecialOverflow(9000, 8192, "Shorten it.")
    assert table.rule(error) == ErrorRule(status=422, message=error.message)


def test_the_row_of_the_nearest_class_applies() -> None:
    table = ErrorTable({ModelLoading: ErrorRule(status=502, message="Loading"), DragomanError: ErrorRule(status=418)})
    assert table.rule(ModelLoading("The model is being loaded", 3)).status == 502
    assert table.rule(Overloaded("Too many", 3)).status == 503


def test_a_row_may_depend_on_the_error() -> None:
    table = ErrorTable({ModelNotFound: lambda error: ErrorRule(status=404, message=f"No model {error.model}")})
    assert table.rule(ModelNotFound("owl")).message == "No model owl"
    assert table.rule(Unauthenticated("missing")).message == "Missing API key"


@pytest.mark.parametrize(
    "error_class", [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, DragomanError)]
)
def test_every_error_has_a_rule_and_only_defects_are_reported_as_such(error_class: type[DragomanError]) -> None:
    error = error_class.__new__(error_class)
    error.message = "Words"
    vars(error).update(retry_after=1, fault="missing")
    is_defect = error_class in (DragomanError, errors.EngineFailed, errors.ReplicaFailed)
    assert (ErrorTable({}).rule(error).status == 500) == is_defect


@pytest.mark.parametrize(("wait", "sent"), [(1, "1"), (59, "59"), (61, "59")])
def test_a_limit_per_minute_asks_for_no_wait_that_libraries_ignore(wait: int, sent: str) -> None:
    error = RequestRateLimited(allowances=Allowances(Allowance(3, 3, wait), None), retry_after=wait)
    headers = error_headers(error)
    assert (headers["retry-after"], headers["x-ratelimit-reset-requests"]) == (sent, f"{wait}s")
