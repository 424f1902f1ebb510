"""The one error tree.

DragomanError
├── BadRequest            the request can never succeed as it stands
│   ├── ContextOverflow   the prompt leaves no room for an answer
│   ├── ModelNameTaken         another model or adapter has this name
│   └── AdapterMissing    an adapter that is not where this server may look
├── Unauthenticated       no key was sent, or none that is accepted
│   └── KeyExpired        it was accepted until some time ago
├── Forbidden             the key is good, but not for this
├── InsufficientBalance          what it may cost is more than is left to spend
├── ModelNotFound         no deployment has this name, or the key may not use it
├── JobNotFound           no job has this id, its result is gone, or it is somebody else's
├── JobTimedOut           it waited in the queue for longer than its client was to wait
├── JobCancelled          somebody cancelled it
├── BodyTooLarge          the HTTP body is over the configured limit
├── IdempotencyConflict   the Idempotency-Key cannot stand for this request
├── NoAccount             what is asked for is told of an account, and the caller has none
├── Limited               the key's own limits: a later try may succeed; says when
│   ├── RateLimited       requests or tokens per minute
│   └── TooManyRunning    requests at the same time
├── Overloaded            a later try may succeed; says when
│   ├── ModelLoading      the engine is starting or being restarted
│   └── ShuttingDown      the server is draining
└── EngineFailed          the engine died or broke its contract

Each dialect maps this tree to its own envelope in its codec; after the first byte the same error becomes
that dialect's in-stream error. Foreign errors are translated where they enter, never further in.
"""

from datetime import datetime
from typing import Literal

from dragoman.core.rate_limits import Allowances

KeyFault = Literal["missing", "malformed", "unknown", "disabled", "expired"]

_KEY_FAULT_MESSAGES: dict[KeyFault, str] = {
    "missing": "Missing API key",
    "malformed": "Malformed API key",
    "unknown": "Invalid API key",
    "disabled": "The API key is disabled",
    "expired": "The API key has expired",
}

_MIN_LENGTH_TO_SHOW_SUFFIX = 16
"""Characters of a key of which the last four give nothing away."""


class DragomanError(Exception):
    """Base of everything the server tells a client. `message` is for people and holds no secret."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(DragomanError):
    """The request can never succeed as it stands. `parameter` is the field at fault, in the engine's vocabulary."""

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class ContextOverflow(BadRequest):
    """The prompt leaves no room for one more token. Token counts are exact unless `at_least` is set."""

    def __init__(self, prompt_tokens: int, context_length: int, remedy: str, *, at_least: bool = False) -> None:
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length
        self.remedy = remedy
        self.at_least = at_least
        count = f"at least {prompt_tokens}" if at_least else f"{prompt_tokens}"
        super().__init__(
            f"The prompt has {count} tokens; the model's context length is {context_length} tokens, "
            f"and an answer needs at least one of them. {remedy}",
            "prompt",
        )


class ModelNameTaken(BadRequest):
    """Another model or adapter has the name that was wanted."""

    def __init__(self, name: str) -> None:
        super().__init__(f"A model named '{name}' already exists", "name")
        self.name = name


class AdapterMissing(BadRequest):
    """An adapter that is not where this server may look for it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "model_name")


class Unauthenticated(DragomanError):
    """No key was sent, its header has the wrong form, nobody has this key, or it is not good any more."""

    def __init__(self, fault: KeyFault, key: str = "") -> None:
        """`key` is what was sent; only its last four characters are kept."""
        super().__init__(_KEY_FAULT_MESSAGES[fault])
        self.fault = fault
        self.has_prefix = key.startswith("sk-")
        """Whether what was sent looks like a key at all."""
        self.key_suffix = key[-4:] if len(key) >= _MIN_LENGTH_TO_SHOW_SUFFIX else ""


class KeyExpired(Unauthenticated):
    """The key was good until `expired_at`; both times are in UTC."""

    def __init__(self, expired_at: datetime, now: datetime, key: str = "") -> None:
        super().__init__("expired", key)
        self.expired_at = expired_at
        self.now = now


class Forbidden(DragomanError):
    """The key is good, but not for this."""


class InsufficientBalance(DragomanError):
    """What the request may cost is more than its account, or its key's own budget, has left."""

    def __init__(self, message: str, *, limit: str, cost: str) -> None:
        """`limit` is all there was to spend, `cost` what would be spent with this request: decimals of the currency."""
        super().__init__(message)
        self.limit = limit
        self.cost = cost


class Limited(DragomanError):
    """The key's own limits: a later try may succeed. `retry_after` is in whole seconds, at least 1."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = max(1, retry_after)


class RateLimited(Limited):
    """Requests or tokens per minute."""

    def __init__(self, message: str, retry_after: int, allowances: Allowances) -> None:
        super().__init__(message, retry_after)
        self.allowances = allowances


class TooManyRunning(Limited):
    """More than `limit` requests at the same time."""

    def __init__(self, message: str, retry_after: int, limit: int) -> None:
        super().__init__(message, retry_after)
        self.limit = limit


class ModelNotFound(DragomanError):
    """No deployment has this name, or the caller may not know of it."""

    def __init__(self, model: str) -> None:
        super().__init__(f"Model '{model}' not found")
        self.model = model


class JobNotFound(DragomanError):
    """No job has this id, its result was removed, or it belongs to somebody else."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job '{job_id}' not found")
        self.job_id = job_id


class JobTimedOut(DragomanError):
    """A job whose client waits for it has waited in the queue for too long."""


class JobCancelled(DragomanError):
    """The job was cancelled before it had ended."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job '{job_id}' was cancelled")
        self.job_id = job_id


class BodyTooLarge(DragomanError):
    """The HTTP body is over the configured limit."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"Request body is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class IdempotencyConflict(DragomanError):
    """The Idempotency-Key stands for another request, or for one whose answer cannot be given again."""


class NoAccount(DragomanError):
    """What is asked for is told of an account, and the caller has none."""


class Overloaded(DragomanError):
    """A later try may succeed. `retry_after` is in whole seconds, at least 1."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = max(1, retry_after)


class ModelLoading(Overloaded):
    """The engine is starting or being restarted."""


class ShuttingDown(Overloaded):
    """The server is draining and takes no new requests."""


class EngineFailed(DragomanError):
    """The engine died or broke its contract while it worked on the request."""
