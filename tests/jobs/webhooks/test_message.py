"""Messages and their signatures, compared with the specification's own example."""

import pytest

from dragoman.jobs.webhooks.message import InvalidSecret, WebhookMessage, ended_message, parse_secret, signed_headers


def test_the_signature_is_that_of_the_specifications_libraries() -> None:
    # The example in the tests of the Standard Webhooks libraries.
    secret = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    message = WebhookMessage("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}')
    headers = signed_headers(message, secret, 1614265330)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (message.id, "1614265330")


def test_a_message_names_the_job_and_its_state_but_not_its_answer() -> None:
    message = ended_message("job_17", "4711", "failed", 1_800_000_000_123)
    assert message.id == "msg_4711"
    assert message.body == (
        b'{"type":"job.failed","timestamp":"2027-01-15T08:00:00.123Z","data":{"id":"job_17","state":"failed",'
        b'"url":"/queue/response/job_17","ended_at":"2027-01-15T08:00:00.123Z"}}'
    )


@pytest.mark.parametrize(
    "text",
    ["", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_" + "A" * 88, "whsec_é"],
)
def test_an_invalid_secret_is_rejected_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidSecret, match="24 to 64 random bytes") as refused:
        parse_secret(text)
    assert len(text) < 7 or text not in str(refused.value)
