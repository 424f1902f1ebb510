"""The attempts that a request took at replicas, as they are stored with its usage."""

from collections.abc import Sequence

import msgspec

from dragoman.core.answered_by import AnsweredBy, FailedAttempt

MAX_ATTEMPTS = 16
"""Attempts of a request that are recorded; one of many prompts may take more."""


class RecordedAttempt(msgspec.Struct, frozen=True, array_like=True):
    """One attempt. Times are in milliseconds from the admission on."""

    replica: str
    outcome: str
    """How it ended: as the request if it answered, or why it did not begin to answer."""
    began_ms: int | None
    """None: not known."""
    ended_ms: int | None


_decoder = msgspec.json.Decoder(list[RecordedAttempt])


def encode_attempts(
    attempts: Sequence[AnsweredBy | FailedAttempt], result: str, opened_at: float, ended_at: float
) -> str:
    """Return the JSON of a request's attempts. Those that answer end with it, at `ended_at`, with its `result`.

    `opened_at` is the time of its admission, both in seconds of time.monotonic.
    """

    def milliseconds(at: float) -> int:
        return max(0, round((at - opened_at) * 1000))

    return msgspec.json.encode(
        [
            RecordedAttempt(each.replica, each.outcome, milliseconds(each.began_at), milliseconds(each.ended_at))
            if isinstance(each, FailedAttempt)
            else RecordedAttempt(
                each.replica,
                result,
                None if each.began_at is None else milliseconds(each.began_at),
                milliseconds(ended_at),
            )
            for each in attempts
        ]
    ).decode()


def decode_attempts(text: str | None) -> list[RecordedAttempt]:
    """Return the attempts of a row of usage."""
    return [] if text is None else _decoder.decode(text)
