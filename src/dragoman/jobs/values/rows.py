"""Rows of the jobs table, and the values that the parts of the queue exchange about jobs."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from dragoman.accounts.ledger.operations import Admission
from dragoman.core.errors import DragomanError
from dragoman.core.events import Event, Usage
from dragoman.core.jobs import JobDraft, JobState


class OpenJobRow(NamedTuple):
    """A locked job that has not ended. The fields are columns."""

    number: int
    id: str
    request_id: str
    state: JobState
    round: int
    claimed_at: int | None
    attempts: int
    lease: int | None
    fingerprint: str | None
    prompt_tokens: int
    completion_tokens: int
    events: int
    bytes: int
    delivered: int
    webhook: str | None


class EndedJobRow(NamedTuple):
    """A locked job that may be submitted again. The fields are columns, `base_model` one of its request."""

    number: int
    owner: str
    account: str | None
    key_digest: str | None
    dialect: str
    model: str
    priority: int
    state: JobState
    prompt_tokens: int
    most_completion_tokens: int
    bytes: int
    base_model: str | None


class MovableJobRow(NamedTuple):
    """A locked job that may get another place in the queue. The fields are columns."""

    number: int
    owner: str
    model: str
    priority: int
    state: JobState
    submitted_at: int


class NewJobRow(NamedTuple):
    """A job to insert. The fields are columns, in the order of the table; other columns get their defaults."""

    id: str
    request_id: str
    owner: str
    account: str | None
    key_digest: str | None
    dialect: str
    model: str
    priority: int
    round: int
    due: int
    state: JobState
    submitted_at: int
    expires_at: int | None
    prompt_tokens: int
    most_completion_tokens: int
    bytes: int
    webhook: str | None
    webhook_host: str | None


class Submission(NamedTuple):
    """A request to accept as a job."""

    draft: JobDraft
    admission: Admission
    owner: str
    """Owner of the job; empty without accounts and keys."""

    @property
    def job_id(self) -> str:
        """The job's id. The same for every repetition, so that a submission that was never confirmed is found again."""
        return f"job_{self.admission.request_id}"


class PackedSubmission(NamedTuple):
    """A submission, and what is stored of its request (payloads.py)."""

    submission: Submission
    requests: bytes
    stored_request: bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.requests) + len(self.stored_request)


class AcceptedJob(NamedTuple):
    """The job created from a submission."""

    job_id: str
    repeated: bool
    """Whether it existed already for the same Idempotency-Key."""


class Lease(NamedTuple):
    """The right to write to a running job."""

    number: int
    token: int


class ClaimedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that this process has claimed to run now."""

    id: str
    lease: Lease
    owner: str
    """core.context.account_owner of the account that pays; without one, the digest of the key."""
    model: str
    priority: int
    requests: bytes
    """Packed (payloads.py), because a request stored by a newer version may fail to decode."""
    events: int
    """Number of events stored by earlier attempts."""
    completion_tokens: int
    """Tokens in these events."""
    fingerprint: str | None
    """Fingerprint of the model that generated them. None: it was not known."""
    waited_seconds: float | None
    """Since its submission. None: this is not its first attempt."""


class JobResult(NamedTuple):
    """The final outcome of a job."""

    state: JobState
    usage: Usage | None = None
    """Set if it finished."""
    error: DragomanError | None = None
    """Set if it failed."""


class Requeue(NamedTuple):
    """The outcome of an attempt that puts the job back into the queue, in the same place."""

    error: DragomanError | None = None
    """Why the attempt failed. The job fails with it after the last attempt. None: the attempt does not count."""


AttemptOutcome: TypeAlias = JobResult | Requeue


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """An update to write to one running job."""

    lease: Lease
    first: int = 0
    """Number of the first of the events, which is how many are stored before them."""
    events: Sequence[Event] = ()
    payload: bytes = b""
    """The events as they are stored (payloads.py)."""
    completion_tokens: int = 0
    """Tokens generated so far, including earlier attempts."""
    fingerprint: str | None = None
    """Fingerprint of the model that generates."""
    is_resumable: bool = False
    """Whether a later attempt can resume after these events, so that they count as progress."""
    outcome: AttemptOutcome | None = None
    """None: the job keeps running."""


class Reported(NamedTuple):
    """What became of reports. The sets hold the numbers of jobs."""

    lost: set[int]
    """Those whose lease was lost."""
    locked: set[int]
    """Those that have not ended, because others keep their account locked; their events are stored."""

    @classmethod
    def all_of(cls, parts: "Iterable[Reported]") -> "Reported":
        """Return what became of all reports, given parts of them."""
        lost, locked = zip(*parts, strict=True)
        return cls(set().union(*lost), set().union(*locked))
