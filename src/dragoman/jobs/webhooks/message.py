"""Build and sign messages by Standard Webhooks (standardwebhooks.com, version 1)."""

import base64
import binascii
import hashlib
import hmac
from typing import Literal, NamedTuple

import msgspec

from dragoman.accounts.times import to_datetime
from dragoman.core.jobs import JobState

SECRET_PREFIX = "whsec_"

_MIN_SECRET_BYTES, _MAX_SECRET_BYTES = 24, 64
"""Limits of the specification."""

DeliveryResult = Literal["delivered", "gone", "refused", "failed"]
"""Result of a delivery attempt. gone: the receiver wants no more messages. refused: sending there is not allowed.
failed: a later attempt may succeed."""


class InvalidSecret(ValueError):
    """The text is no valid signing secret. The error message does not contain it."""


class WebhookMessage(NamedTuple):
    """The notification of one end of a job."""

    id: str
    """The same for every attempt, so that receivers can ignore repetitions."""
    body: bytes


class _MessageData(msgspec.Struct, frozen=True):
    id: str
    state: JobState
    url: str
    ended_at: str


class _MessageBody(msgspec.Struct, frozen=True):
    type: str
    timestamp: str
    data: _MessageData


def parse_secret(text: str) -> bytes:
    """Return the bytes to sign with. `text` is `whsec_` and 24 to 64 bytes in base64. Raises InvalidSecret."""
    try:
        secret = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.startswith(SECRET_PREFIX) or not _MIN_SECRET_BYTES <= len(secret) <= _MAX_SECRET_BYTES:
        raise InvalidSecret(
            f"must be {SECRET_PREFIX} and {_MIN_SECRET_BYTES} to {_MAX_SECRET_BYTES} random bytes in base64, as "
            f'echo "{SECRET_PREFIX}$(head -c 32 /dev/urandom | base64)" makes one'
        )
    return secret


def ended_message(job_id: str, request_id: str, state: JobState, ended_at: int, root_path: str = "") -> WebhookMessage:
    """Return the message that a job has ended in this state. `ended_at` is in milliseconds since 1970.

    `request_id` is that of the job's last admission: a job that is retried after its end ends again, with another id.
    """
    at = to_datetime(ended_at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = _MessageBody(f"job.{state}", at, _MessageData(job_id, state, f"{root_path}/queue/response/{job_id}", at))
    return WebhookMessage(f"msg_{request_id}", msgspec.json.encode(body))


def signed_headers(message: WebhookMessage, secret: bytes, now: int) -> dict[str, str]:
    """Return the headers of a message that is sent now. `now` is in seconds since 1970."""
    signed = b".".join((message.id.encode(), str(now).encode(), message.body))
    signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {
        "content-type": "application/json",
        "webhook-id": message.id,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{signature}",
    }
