"""Sums of usage by hour, the time to the first token of each request, and the sessions of the console."""

from sqlalchemy import Connection

from dragoman.accounts.database.migrations.m0002_idempotency import BYTES

_CLASSES = 12
"""Of the time to the first token."""

STATEMENTS = (
    "ALTER TABLE usage ADD COLUMN first_token_ms BIGINT",
    "CREATE INDEX usage_errors ON usage (id) WHERE result IN ('failed', 'crashed')",
    "ALTER TABLE daily_usage ADD COLUMN errors BIGINT NOT NULL DEFAULT 0",
    "CREATE INDEX daily_usage_day ON daily_usage (day)",
    """
    CREATE TABLE hourly_usage (
        hour BIGINT NOT NULL,
        account_id BIGINT NOT NULL,
        key_id BIGINT NOT NULL,
        model TEXT NOT NULL,
        dialect TEXT NOT NULL,
        requests BIGINT NOT NULL,
        prompt_tokens BIGINT NOT NULL,
        cached_tokens BIGINT NOT NULL,
        completion_tokens BIGINT NOT NULL,
        charge BIGINT NOT NULL,
        errors BIGINT NOT NULL,
        {classes},
        PRIMARY KEY (hour, account_id, key_id, model, dialect)
    ){without_rowid}
    """,
    "CREATE INDEX hourly_usage_account ON hourly_usage (account_id, hour)",
    """
    INSERT INTO hourly_usage (hour, account_id, key_id, model, dialect,
                              requests, errors, prompt_tokens, cached_tokens, completion_tokens, charge)
    SELECT settled_at / 3600000, COALESCE(account_id, 0), COALESCE(key_id, 0), model, dialect, COUNT(*),
           SUM(CASE WHEN result IN ('failed', 'crashed') THEN 1 ELSE 0 END),
           SUM(prompt_tokens), SUM(cached_tokens), SUM(completion_tokens), SUM(charge)
    FROM usage GROUP BY 1, 2, 3, 4, 5
    """,
    """
    UPDATE daily_usage SET errors = (
        SELECT COALESCE(SUM(hourly.errors), 0) FROM hourly_usage AS hourly
        WHERE hourly.account_id = daily_usage.account_id AND hourly.key_id = daily_usage.key_id
          AND hourly.model = daily_usage.model
          AND hourly.hour BETWEEN daily_usage.day * 24 AND daily_usage.day * 24 + 23
    )
    """,
    """
    CREATE TABLE console_sessions (
        digest TEXT PRIMARY KEY,
        kind TEXT NOT NULL CHECK (kind IN ('administrator', 'account', 'settings')),
        key_digest TEXT NOT NULL,
        sealed_key {bytes},
        created_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL
    )
    """,
    "CREATE INDEX console_sessions_expiry ON console_sessions (expires_at)",
)


def apply(connection: Connection) -> None:
    """Create the tables, and sum the requests that are settled already; nobody measured their first tokens."""
    kind = connection.dialect.name
    classes = ", ".join(f"first_token_{number} BIGINT NOT NULL DEFAULT 0" for number in range(_CLASSES))
    without_rowid = " WITHOUT ROWID" if kind == "sqlite" else ""
    for statement in STATEMENTS:
        words = {"bytes": BYTES[kind], "classes": classes, "without_rowid": without_rowid}
        connection.exec_driver_sql(statement.format(**words))
