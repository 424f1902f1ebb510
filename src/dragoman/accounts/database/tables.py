"""The tables as the code sees them. Migrations create them; a test compares the two.

Amounts are nano-units; times (`…_at`, `valid_from`) are milliseconds since 1970 (UTC); a `day` counts days since then.
All integers have 64 bits.
"""

from typing import Any

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, String, Table

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("name", String, nullable=False),
    Column("currency", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("deposits", BigInteger, nullable=False),
    Column("balance", BigInteger, nullable=False),
    Column("holds", BigInteger, nullable=False),
    Column("charges", BigInteger, nullable=False),
)
"""`deposits = balance + holds + charges` in every row, by a constraint of the table."""

movements = Table(
    "movements",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("account_id", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("request_id", String),
    Column("reference", String),
    Column("note", String),
    Column("deposits", BigInteger, nullable=False),
    Column("balance", BigInteger, nullable=False),
    Column("holds", BigInteger, nullable=False),
    Column("charges", BigInteger, nullable=False),
)
"""Rows are only ever added. The last four columns are changes of the account's totals and sum to them."""

keys = Table(
    "keys",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("digest", String, nullable=False),
    Column("ending", String, nullable=False),
    Column("label", String, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("disabled_at", BigInteger),
    Column("models", String),
    Column("dialects", String),
    Column("budget", BigInteger),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("concurrent_requests", BigInteger),
    Column("spent", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("running", BigInteger, nullable=False),
)
"""`account_id` pays unless a request selects another account; `models` and `dialects` are JSON lists."""

key_accounts = Table(
    "key_accounts",
    metadata,
    Column("key_id", BigInteger, primary_key=True),
    Column("account_id", BigInteger, primary_key=True),
)
"""All accounts that a key may use, including its own."""

prices = Table(
    "prices",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("model", String, nullable=False),
    Column("prompt", BigInteger, nullable=False),
    Column("cached", BigInteger, nullable=False),
    Column("completion", BigInteger, nullable=False),
    Column("valid_from", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
"""Nano-units per token. Rows are only ever added, so that the price of every charge remains available."""

processes = Table(
    "processes",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("machine", String, nullable=False),
    Column("beat_at", BigInteger, nullable=False),
)
"""The processes that may have running requests. `machine` is the id of the journal folder, see process/journal.py."""

holds = Table(
    "holds",
    metadata,
    Column("request_id", String, primary_key=True),
    Column("process_id", BigInteger, nullable=False),
    Column("account_id", BigInteger),
    Column("key_id", BigInteger),
    Column("price_id", BigInteger),
    Column("model", String, nullable=False),
    Column("dialect", String, nullable=False),
    Column("admitted_at", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("most_charge", BigInteger, nullable=False),
    Column("prompt_price", BigInteger, nullable=False),
    Column("cached_price", BigInteger, nullable=False),
    Column("completion_price", BigInteger, nullable=False),
    Column("counted_second", BigInteger),
    Column("counted_tokens", BigInteger, nullable=False),
    Column("fallbacks", String),
)
"""One row for each running request, deleted when the request is settled. `fallbacks` is the JSON of rows.ModelTerms."""

usage = Table(
    "usage",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("request_id", String, nullable=False),
    Column("account_id", BigInteger),
    Column("key_id", BigInteger),
    Column("price_id", BigInteger),
    Column("model", String, nullable=False),
    Column("dialect", String, nullable=False),
    Column("admitted_at", BigInteger, nullable=False),
    Column("settled_at", BigInteger, nullable=False),
    Column("result", String, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("charge", BigInteger, nullable=False),
    Column("usage_source", String),
    Column("first_token_ms", BigInteger),
    Column("attempts", String),
)
"""One row for each settled request; rows are only ever added. Requests of an open server have no account and key.

`usage_source` is core.events.UsageSource; NULL: the engine of this server counted. `first_token_ms` counts from the
admission; NULL: there was no token, or nobody measured it. `attempts` are those at replicas, as JSON, see
Settlement.attempts; NULL: there was one engine to ask."""

daily_usage = Table(
    "daily_usage",
    metadata,
    Column("account_id", BigInteger, primary_key=True),
    Column("key_id", BigInteger, primary_key=True),
    Column("model", String, primary_key=True),
    Column("day", BigInteger, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("charge", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
)
"""Sums of `usage` by the day of settlement; account and key are 0 where they are NULL in `usage`. `errors` counts the
requests that failed or crashed."""

FIRST_TOKEN_BOUNDS_MS = (25, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600)
"""Upper bounds of the classes that times to the first token are counted in; one more class has all others."""

FIRST_TOKEN_CLASSES = tuple(f"first_token_{number}" for number in range(len(FIRST_TOKEN_BOUNDS_MS) + 1))


def _usage_sums_columns() -> list[Column[Any]]:
    """Return the columns of a table of sums but the first, which says of what time they are."""
    names = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "charge", "errors")
    return [
        Column("account_id", BigInteger, primary_key=True),
        Column("key_id", BigInteger, primary_key=True),
        Column("model", String, primary_key=True),
        Column("dialect", String, primary_key=True),
        *(Column(name, BigInteger, nullable=False) for name in (*names, *FIRST_TOKEN_CLASSES)),
    ]


hourly_usage = Table("hourly_usage", metadata, Column("hour", BigInteger, primary_key=True), *_usage_sums_columns())
"""Sums of `usage` by the hour of settlement, in hours since 1970; otherwise as `daily_usage`. `first_token_…` count the
requests by the class of FIRST_TOKEN_BOUNDS_MS that their time to the first token is in."""

SIX_HOURLY_LAG_HOURS = 1
"""Hours are summed by six once they have ended for so long: transactions that settle in them may still be committed."""

six_hourly_usage = Table(
    "six_hourly_usage",
    metadata,
    Column("six_hours", BigInteger, primary_key=True),
    *_usage_sums_columns(),
)
"""Sums of `hourly_usage` by six hours, in units of six hours since 1970. The ledger adds them once they have ended, and
they never change again; what is behind the last row is in `hourly_usage` alone."""

rate_buckets = Table(
    "rate_buckets",
    metadata,
    Column("key_id", BigInteger, primary_key=True),
    Column("second", BigInteger, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
)
"""Admissions in each second of the last minute, for keys with a limit per minute; see ledger/rate_limits.py."""

idempotent_requests = Table(
    "idempotent_requests",
    metadata,
    Column("id", String, primary_key=True),
    Column("fingerprint", String, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("process_id", BigInteger, nullable=False),
    Column("claimed_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("status", BigInteger),
    Column("headers", String),
    Column("body", LargeBinary),
    Column("job_id", String),
    Column("owner", String),
    Column("bytes", BigInteger),
)
"""A row for each Idempotency-Key of a caller. The request runs until `ended_at`; a NULL status then means that the
response was too large to be stored. `headers` is a JSON list of pairs. The row of a queued request has a `job_id` and
never ends. `owner` is the digest of the key that sent the request, `bytes` what the row takes up once it has ended."""

jobs = Table(
    "jobs",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("id", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("account", String),
    Column("key_digest", String),
    Column("dialect", String, nullable=False),
    Column("model", String, nullable=False),
    Column("priority", BigInteger, nullable=False),
    Column("round", BigInteger, nullable=False),
    Column("due", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("submitted_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("claimed_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("attempts", BigInteger, nullable=False),
    Column("lease", BigInteger),
    Column("lease_until", BigInteger),
    Column("process_id", BigInteger),
    Column("fingerprint", String),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("most_completion_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("delivered", BigInteger, nullable=False),
    Column("error", LargeBinary),
    Column("webhook", String),
    Column("webhook_host", String),
    Column("webhook_state", String),
    Column("webhook_attempts", BigInteger, nullable=False),
    Column("webhook_at", BigInteger),
)
"""A row for each queued request, from its submission until its result is removed. Rows with a state other than "queued"
or "running" have ended. jobs/storage/fair_queue.py orders the waiting ones by `due`, `priority`, `round` and `number`.
Only the holder of the `lease` of a running job may write to it. `events` and `completion_tokens` count what is stored;
`delivered` is 1 once a client may have read them. `bytes` covers everything stored for the job in the tables below. The
end of the job is sent to the URL `webhook` at `webhook_at`; NULL means not yet, or never again."""

job_requests = Table(
    "job_requests",
    metadata,
    Column("job", BigInteger, primary_key=True),
    Column("requests", LargeBinary, nullable=False),
    Column("form", LargeBinary, nullable=False),
    Column("base_model", String),
)
"""The requests and the response format of each job, by its number; separate from the columns that change. `base_model`
is the model of the adapter that the job is for; NULL if it is for none."""

job_events = Table(
    "job_events",
    metadata,
    Column("job", BigInteger, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("payload", LargeBinary, nullable=False),
)
"""The events of a job's answer so far, several to a row; `first` is the index of the first one, from 0."""

console_sessions = Table(
    "console_sessions",
    metadata,
    Column("digest", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("key_digest", String, nullable=False),
    Column("sealed_key", LargeBinary),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
"""A row for each person who is signed in to the console. `digest` is that of the secret in the browser's cookie, and
`key_digest` that of the key which signed in: the session ends with it. `sealed_key` is an API key that only the secret
opens, see server/console/sessions.py."""

responses = Table(
    "responses",
    metadata,
    Column("id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("previous_id", String),
    Column("stored_at", BigInteger, nullable=False),
    Column("deleted", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("input", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
)
"""A row for each stored response, with the items of its own input; those before them are in the row of `previous_id`.
`owner` is the account or the key that has it, `bytes` what the row takes up. A row that is `deleted` is empty: it keeps
a response in the background from being stored later."""

request_bodies = Table(
    "request_bodies",
    metadata,
    Column("request_id", String, primary_key=True),
    Column("stored_at", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("is_cut", BigInteger, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("answer", LargeBinary, nullable=False),
)
"""What clients sent and received, compressed; only if `[console] keep_bodies` says so. `bytes` is what the row takes
up; `is_cut` is 1 if the rest of a long body is missing."""

changes = Table(
    "changes",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("details", String, nullable=False),
)
"""The audit log: a row in the same transaction as its change. Rows are only ever added. `details` is a JSON object."""

schema_migrations = Table(
    "schema_migrations",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("name", String, nullable=False),
    Column("applied_at", BigInteger, nullable=False),
    Column("requires", BigInteger),
)
"""The newest step that code must know to run on the tables after the step is `requires`; NULL: the step itself."""

upstreams = Table(
    "upstreams",
    metadata,
    Column("name", String, primary_key=True),
    Column("deployment", String, nullable=False),
    Column("url", String, nullable=False),
    Column("settings", String),
    Column("is_draining", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
)
"""Upstreams that administrators have added, with their settings as JSON, or drained. `is_draining` is 0 or 1."""
