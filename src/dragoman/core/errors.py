"""The one error tree.

DragomanError
├── BadRequest                the request can never succeed as it stands
│   ├── ContextOverflow       the prompt leaves no room for an answer
│   ├── ModelNameTaken        another model or adapter has this name
│   ├── AdapterMissing        this server cannot find the adapter
│   └── RequestTooLarge       the request asks for more tokens than its key may use in a minute
├── Unauthenticated           the API key is missing, malformed or not accepted
│   └── KeyUnknown, KeyDisabled, KeyExpired
├── Forbidden                 the key is valid, but not for this
│   └── DialectNotAllowed, AccountNotAllowed
├── InsufficientBalance       the request may cost more than is left to spend
│   └── BalanceTooLow, BudgetExceeded   of the account; of the key
├── ModelNotFound             no deployment has this name
│   └── ModelNotAllowed       the key may not use the model; the gateway reports ModelNotFound
├── JobNotFound               no job has this id, its result was removed, or another owner has it
├── RequestTimedOut           the answer was not complete when its client's deadline passed
├── JobTimedOut               the job waited in the queue for longer than its client waits
├── JobCancelled              the job was cancelled
├── BodyTooLarge              the HTTP body exceeds the configured limit
├── UnsupportedEncoding       the HTTP body has a Content-Encoding that the server does not decode
├── IdempotencyConflict       the Idempotency-Key cannot be used for this request
├── NoAccount                 the endpoint reports account data and the caller has no account
├── Limited                   a limit of the caller was reached; retry after `retry_after`
│   ├── RateLimited           requests or tokens per minute
│   │   └── RequestRateLimited, TokenRateLimited
│   └── TooManyRunning        concurrent requests
├── Overloaded                the server cannot take the request now; retry after `retry_after`
│   ├── ModelLoading          the engine is starting or restarting
│   ├── ModelUnavailable      the model cannot be loaded
│   ├── ShuttingDown          the server is draining
│   └── LedgerUnavailable     the accounts' database does not answer, or too many requests wait for it
└── EngineFailed              the engine died or broke its contract
    ├── ReplicaFailed         before it had sent anything: another replica may answer
    └── UpstreamFailed        the engine is another server; UpstreamUnavailable is a ReplicaFailed too

Each dialect maps this tree to its own envelope in its codec; after the first byte the same error becomes
that dialect's in-stream error. Foreign errors are translated where they enter, never further in.

Every constructor parameter is an attribute of the same name: core.errors_wire sends errors between processes by
calling the constructor again. Amounts are in nano-units, `retry_after` in whole seconds, at least 1.
"""

from datetime import datetime
from typing import Literal, Self

from dragoman.core.answered_by import RefusingReplica
from dragoman.core.money import format_amount
from dragoman.core.rate_limits import Allowances

KeyFault = Literal["missing", "malformed", "unknown", "disabled", "expired"]

ReplicaFault = Literal["failed", "timed_out", "refused", "configuration", "exhausted", "limited"]
"""What a replica did: fail; not answer in time; refuse connections; refuse access or know no such model, because it or
this server is configured wrongly; refuse an account without credit; reject one request too many."""

_KEY_FAULT_MESSAGES: dict[KeyFault, str] = {
    "missing": "Missing API key",
    "malformed": "Malformed API key",
    "unknown": "Invalid API key",
    "disabled": "The API key is disabled",
    "expired": "The API key has expired",
}

_MAX_NAME_LENGTH = 512
"""Characters of a model's name that are repeated in an error."""

_MIN_LENGTH_TO_SHOW_SUFFIX = 16
"""Characters of a key of which the last four give nothing away."""


class DragomanError(Exception):
    """Base of every error that a client may see. `message` is for people and holds no secret."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(DragomanError):
    """The request can never succeed as it stands. `parameter` is the field at fault, in the engine's vocabulary."""

    is_final = True
    """Whether the response may be replayed for an equal request. False: other things than the request may change."""
    code: str | None = None
    """An upstream's own name for what is wrong. It is not stored with the error of a job."""

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class ContextOverflow(BadRequest):
    """The prompt leaves no room for one more token. Token counts are exact unless `at_least` is set."""

    def __init__(self, prompt_tokens: int, context_length: int, remedy: str, *, at_least: bool = False) -> None:
        self.prompt_tokens, self.context_length = prompt_tokens, context_length
        self.remedy, self.at_least = remedy, at_least
        count = f"at least {prompt_tokens}" if at_least else f"{prompt_tokens}"
        super().__init__(
            f"The prompt has {count} tokens; the model's context length is {context_length} tokens, "
            f"and an answer needs at least one of them. {remedy}",
            "prompt",
        )


class ModelNameTaken(BadRequest):
    """Another model or adapter has the requested name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"A model named '{name}' already exists", "name")
        self.name = name


class AdapterMissing(BadRequest):
    """This server cannot find the adapter where it may look for it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "model_name")


class RequestTooLarge(BadRequest):
    """Prompt and longest answer have more `tokens` than the key may use in a minute (`limit`)."""

    is_final = False

    def __init__(self, tokens: int, limit: int) -> None:
        reason = f"The request asks for up to {tokens} tokens, and the API key may use {limit} a minute"
        super().__init__(f"{reason}. Shorten the prompt or ask for fewer tokens", "max_tokens")
        self.tokens, self.limit = tokens, limit


class Unauthenticated(DragomanError):
    """The API key is missing, its header has the wrong form, or the key is not accepted."""

    has_prefix = False
    """Whether the value that was sent looks like a key at all."""
    key_suffix = ""
    """The last four characters of the key that was sent; empty if it is too short to show any."""

    def __init__(self, fault: KeyFault) -> None:
        super().__init__(_KEY_FAULT_MESSAGES[fault])
        self.fault = fault

    def with_key(self, key: str) -> Self:
        """Add what may be shown of the key that was sent."""
        self.has_prefix = key.startswith("sk-")
        self.key_suffix = key[-4:] if len(key) >= _MIN_LENGTH_TO_SHOW_SUFFIX else ""
        return self


class KeyUnknown(Unauthenticated):
    """No key has this digest."""

    def __init__(self) -> None:
        super().__init__("unknown")


class KeyDisabled(Unauthenticated):
    """The key was disabled or revoked at `disabled_at` (UTC)."""

    def __init__(self, disabled_at: datetime) -> None:
        super().__init__("disabled")
        self.disabled_at = disabled_at


class KeyExpired(Unauthenticated):
    """The key was valid until `expired_at`; `now` is when this was found. Both times are in UTC."""

    def __init__(self, *, expired_at: datetime, now: datetime) -> None:
        super().__init__("expired")
        self.expired_at = expired_at
        self.now = now


class Forbidden(DragomanError):
    """The key is valid, but not for this."""


class DialectNotAllowed(Forbidden):
    """The key is for other dialects."""

    def __init__(self, dialect: str) -> None:
        super().__init__(f"The API key may not be used for the {dialect} API")
        self.dialect = dialect


class AccountNotAllowed(Forbidden):
    """The key may not use the requested account, or no account has this name."""

    def __init__(self, account: str) -> None:
        super().__init__(f"The API key has no access to account '{account}'")
        self.account = account


class InsufficientBalance(DragomanError):
    """Of `limit`, `used` is spent or held by running requests, and the request needs a hold of `hold` more."""

    def __init__(self, message: str, *, limit: int, used: int, hold: int) -> None:
        super().__init__(message)
        self.limit, self.used, self.hold = limit, used, hold

    @property
    def cost(self) -> int:
        """What would be spent with this request."""
        return self.used + self.hold


class BalanceTooLow(InsufficientBalance):
    """The account's `balance`, from which the holds of running requests are subtracted, is smaller than the hold.

    The limit is the sum of the deposits.
    """

    def __init__(self, *, account_id: int, balance: int, used: int, hold: int) -> None:
        message = f"Insufficient balance: {format_amount(balance)}, needed {format_amount(hold)}"
        super().__init__(message, limit=balance + used, used=used, hold=hold)
        self.account_id = account_id
        self.balance = balance


class BudgetExceeded(InsufficientBalance):
    """The key's own budget does not cover what it spent, what its running requests hold, and this hold."""

    def __init__(self, *, budget: int, spent: int, held: int, hold: int) -> None:
        super().__init__(
            f"The API key's budget of {format_amount(budget)} is used up: {format_amount(spent)} spent, "
            f"{format_amount(held)} held for running requests, needed {format_amount(hold)}",
            limit=budget,
            used=spent + held,
            hold=hold,
        )
        self.budget, self.spent, self.held = budget, spent, held


class ModelNotFound(DragomanError):
    """No deployment has this name, or the caller may not know of it."""

    def __init__(self, model: str) -> None:
        self.model = model[:_MAX_NAME_LENGTH]
        super().__init__(f"Model '{self.model}' not found")


class ModelNotAllowed(ModelNotFound):
    """The key is for other models. Clients receive the ModelNotFound of the name that they sent instead."""

    def __init__(self, model: str) -> None:
        DragomanError.__init__(self, f"The API key may not use model '{model}'")
        self.model = model


class JobNotFound(DragomanError):
    """No job has this id, its result was removed, or it belongs to another owner."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job '{job_id}' not found")
        self.job_id = job_id


class RequestTimedOut(DragomanError):
    """The answer was not complete within the time that its client had set."""


class JobTimedOut(DragomanError):
    """A job whose client waits for it has waited in the queue for too long."""


class JobCancelled(DragomanError):
    """The job was cancelled before it had ended."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job '{job_id}' was cancelled")
        self.job_id = job_id


class BodyTooLarge(DragomanError):
    """The HTTP body exceeds the configured limit."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"Request body is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class UnsupportedEncoding(DragomanError):
    """The HTTP body has a Content-Encoding other than those in `accepted`."""

    def __init__(self, encoding: str, accepted: tuple[str, ...]) -> None:
        names = " or ".join(accepted)
        super().__init__(f"Content-Encoding {encoding!r} is not supported: send the body as it is, or with {names}")
        self.encoding = encoding
        self.accepted = accepted


class IdempotencyConflict(DragomanError):
    """The Idempotency-Key belongs to another request, or to one whose response was not stored."""


class NoAccount(DragomanError):
    """The endpoint reports account data and the caller has no account."""


class Limited(DragomanError):
    """A limit of the caller was reached: a later try may succeed."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = max(1, retry_after)


class RateLimited(Limited):
    """A limit per minute. `allowances` reports all limits per minute that the key has."""

    def __init__(self, message: str, retry_after: int, allowances: Allowances) -> None:
        super().__init__(message, retry_after)
        self.allowances = allowances


class RequestRateLimited(RateLimited):
    """Requests per minute."""

    def __init__(self, *, allowances: Allowances, retry_after: int) -> None:
        assert allowances.requests is not None
        limit = allowances.requests.limit
        super().__init__(_limit_message(f"{limit} requests per minute", retry_after), retry_after, allowances)


class TokenRateLimited(RateLimited):
    """Tokens per minute: of prompts and answers; for running requests the largest answer that they may have."""

    def __init__(self, *, allowances: Allowances, retry_after: int) -> None:
        assert allowances.tokens is not None
        limit = allowances.tokens.limit
        super().__init__(_limit_message(f"{limit} tokens per minute", retry_after), retry_after, allowances)


class TooManyRunning(Limited):
    """The key has `running` concurrent requests, and may have `limit`."""

    def __init__(self, *, limit: int, running: int, retry_after: int) -> None:
        super().__init__(_limit_message(f"{limit} concurrent requests", retry_after), retry_after)
        self.limit = limit
        self.running = running


class Overloaded(DragomanError):
    """The server cannot take the request now: a later try may succeed."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = max(1, retry_after)


class ModelLoading(Overloaded):
    """The engine is starting or restarting."""


class ModelUnavailable(Overloaded):
    """The model cannot be loaded. The operator knows why."""


class ShuttingDown(Overloaded):
    """The server is draining and takes no new requests."""


class LedgerUnavailable(Overloaded):
    """The accounts' database does not answer, or too many requests wait for it."""


class EngineFailed(DragomanError):
    """The engine died or broke its contract while it worked on the request."""


class ReplicaFailed(EngineFailed):
    """The engine failed before it had sent anything: another replica, or the same one in `retry_after` seconds (0: it
    does not say when), may answer."""

    def __init__(self, message: str, fault: ReplicaFault = "failed", retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.fault = fault
        self.retry_after = retry_after
        self.refused_by: RefusingReplica | None = None
        """Set by the router for the fault `configuration`."""


class UpstreamFailed(EngineFailed):
    """Another server failed, or broke its answer off."""

    def __init__(self, message: str, fault: ReplicaFault = "failed") -> None:
        super().__init__(message)
        self.fault = fault


class UpstreamUnavailable(ReplicaFailed, UpstreamFailed):
    """Another server failed before it had sent anything: a further one, or the same one later, may answer."""


def _limit_message(limit: str, retry_after: int) -> str:
    return f"Limit of {limit} reached, retry in {max(1, retry_after)} seconds"
