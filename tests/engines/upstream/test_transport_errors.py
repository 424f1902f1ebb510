import pytest

from dragoman.engines.upstream.transport_errors import (
    BrokenResponse,
    ConnectFailed,
    Failure,
    TransportError,
    UpstreamDisconnected,
    UpstreamStatus,
    UpstreamTimeout,
)


@pytest.mark.parametrize(
    ("status", "failure", "may_retry"),
    [
        (307, "configuration", True),
        (400, None, False),
        (401, "configuration", True),
        (403, "configuration", True),
        (404, "configuration", True),
        (408, "failed", True),
        (413, None, False),
        (422, None, False),
        (429, None, True),
        (500, "failed", True),
        (502, "failed", True),
        (503, "failed", True),
        (504, "failed", True),
    ],
)
def test_a_status_says_whose_fault_it_is_and_whether_another_upstream_may_answer(
    status: int, failure: Failure | None, may_retry: bool
) -> None:
    error = UpstreamStatus(status)
    assert (error.failure, error.may_retry) == (failure, may_retry)
    assert not UpstreamStatus(status, should_retry=False).may_retry


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ConnectFailed("refused"), "refused"),
        (UpstreamDisconnected("closed", has_response=True), "failed"),
        (UpstreamTimeout("first_token"), "failed"),
        (BrokenResponse("no HTTP"), "failed"),
    ],
)
def test_what_is_no_answer_is_a_failure_of_the_upstream(error: TransportError, failure: Failure) -> None:
    assert (error.failure, error.may_retry) == (failure, True)
