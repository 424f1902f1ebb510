"""Sums of usage by six hours, which reports over several days read instead of the hours."""

from sqlalchemy import Connection

_CLASSES = 12
"""Of the time to the first token."""

_SUMS = (
    *("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "charge", "errors"),
    *(f"first_token_{number}" for number in range(_CLASSES)),
)

_LAG_HOURS = 1
"""Hours that have ended for so long get no further requests."""

_NOW = {
    "sqlite": "CAST(strftime('%s', 'now') AS INTEGER)",
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS BIGINT)",
}

_CREATE = """
    CREATE TABLE six_hourly_usage (
        six_hours BIGINT NOT NULL,
        account_id BIGINT NOT NULL,
        key_id BIGINT NOT NULL,
        model TEXT NOT NULL,
        dialect TEXT NOT NULL,
        {columns},
        PRIMARY KEY (six_hours, account_id, key_id, model, dialect)
    ){without_rowid}
"""

_FILL = """
    INSERT INTO six_hourly_usage (six_hours, account_id, key_id, model, dialect, {names})
    SELECT hour / 6, account_id, key_id, model, dialect, {sums} FROM hourly_usage
    WHERE hour < ({now} / 3600 - {lag}) / 6 * 6 GROUP BY hour / 6, account_id, key_id, model, dialect
"""


def apply(connection: Connection) -> None:
    """Create the table, and sum the hours that have ended."""
    kind = connection.dialect.name
    words = {
        "columns": ", ".join(f"{name} BIGINT NOT NULL" for name in _SUMS),
        "names": ", ".join(_SUMS),
        "sums": ", ".join(f"CAST(SUM({name}) AS BIGINT)" for name in _SUMS),
        "without_rowid": " WITHOUT ROWID" if kind == "sqlite" else "",
        "now": _NOW[kind],
        "lag": _LAG_HOURS,
    }
    for statement in (_CREATE, _FILL):
        connection.exec_driver_sql(statement.format(**words))
