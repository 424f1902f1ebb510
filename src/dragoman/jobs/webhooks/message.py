"""What a receiver is told, and how it knows who tells it: Standard Webhooks (standardwebhooks.com, version 1)."""

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
"""Bytes, as the specification has it."""


DeliveryResult = Literal["delivered", "gone", "refused", "failed"]
"""How a try to send one ended. gone: the receiver wants no messages any more. refused: we do not send there. failed: a
later try may succeed."""


class InvalidSecret(ValueError):
    """Not a secret to sign with. Its message does not tell it."""


class WebhookMessage(NamedTuple):
    """One job has ended in one way."""

    id: str
    """The same whenever it is sent: a receiver that has it already may ignore it."""
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
    """The bytes to sign with, of `whsec_` and 24 to 64 bytes in base64. Raises InvalidSecret."""
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


def message(job_id: str, request_id: str, state: JobState, ended_at: int) -> WebhookMessage:
    """That the job has ended in this state, at a time in milliseconds since 1970.

    `request_id` is that of its last admission: a job that was tried again after its end ends once more.
    """
    at = to_datetime(ended_at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = _MessageBody(f"job.{state}", at, _MessageData(job_id, state, f"/queue/response/{job_id}", at))
    return WebhookMessage(f"msg_{request_id}", msgspec.json.encode(body))


def signed_headers(webhook_message: WebhookMessage, secret: bytes, now: int) -> dict[str, str]:
    """Those of a message that is sent now, in seconds since 1970."""
    signed = b".".join((webhook_message.id.encode(), str(now).encode(), webhook_message.body))
    signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {
        "content-type": "application/json",
        "webhook-id": webhook_message.id,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{signature}",
    }
