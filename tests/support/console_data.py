"""Records of a server that was used for a month, for pictures of the console and for trying it."""

import random
from datetime import UTC, datetime

import msgspec

from dragoman.accounts.administration.accounts import deposit
from dragoman.accounts.administration.audit_log import Administrator
from dragoman.accounts.administration.keys import KeyRules
from dragoman.accounts.database.connections import Database
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import Admission, Settlement, SettlementResult
from dragoman.accounts.times import to_milliseconds
from dragoman.core.context import key_digest, new_request_id
from tests.support.ledger_harness import ManualClock

MODELS = {"assistant": (1_500, 6_000), "coder": (4_000, 16_000), "small": (200, 800)}
"""Name → nano-units for a token of a prompt, and of an answer."""

_DAY = 86_400
_RESULTS: tuple[SettlementResult, ...] = ("finished", "disconnected", "failed")


def open_with_clock(url: str, days: int = 30) -> tuple[Database, ManualClock]:
    """Open a database whose time begins `days` ago, and its clock."""
    now = to_milliseconds(datetime.now(UTC))
    clock = ManualClock(now - days * _DAY * 1000, second=1000)
    return Database(url, clock), clock


def record_a_month(database: Database, clock: ManualClock, *, days: int = 30) -> str:
    """Record accounts, keys and requests until now, and return a key of the first account."""
    rng = random.Random(7)
    administrator = Administrator(database, "ada")
    for model, (prompt, completion) in MODELS.items():
        administrator.set_price(model, prompt, completion, cached=prompt // 10)
    digests: list[tuple[str, float]] = []
    first_key = ""
    for number, (name, amount) in enumerate((("acme", 250), ("globex", 120), ("initech", 40))):
        account = administrator.create_account(name)
        administrator.deposit(account.id, amount * 10**9, reference=f"invoice-{17 + number}")
        for label, weight in (("web shop", 5), ("nightly batch", 3), ("laptop", 1))[number:]:
            rules = KeyRules(requests_per_minute=600, budget=100 * 10**9) if label == "laptop" else KeyRules()
            created = administrator.create_key(account.id, label=label, rules=rules)
            digests.append((key_digest(created.secret), weight / (number + 1)))
            first_key = first_key or created.secret
    administrator.revoke_key(len(digests))
    _record_requests(Ledger(database, 1), clock, digests[:-1], rng, days)
    deposit(database, 1, 50 * 10**9, note="top-up")
    return first_key


def _record_requests(
    ledger: Ledger, clock: ManualClock, digests: list[tuple[str, float]], rng: random.Random, days: int
) -> None:
    end = clock.wall + days * _DAY * 1000
    keys, weights = zip(*digests, strict=True)
    while True:
        hour = datetime.fromtimestamp(clock.wall / 1000, UTC).hour
        pause = rng.expovariate(1 / (300 * (0.5 if 8 <= hour < 18 else 1.6)))
        if clock.wall + pause * 1000 > end - 30_000:
            break
        clock.advance(round(pause) + 1)
        model = rng.choices(tuple(MODELS), (6, 2, 3))[0]
        prompt, completion = round(rng.lognormvariate(7.2, 0.8)), round(rng.lognormvariate(5.2, 0.7))
        admission = Admission(
            request_id=new_request_id(),
            key_digest=rng.choices(keys, weights)[0],
            model=model,
            dialect=rng.choices(("infermatic", "arcee", "scale", "float16"), (6, 2, 1, 1))[0],
            prompt_tokens=prompt,
            max_completion_tokens=4 * completion + 1000,
        )
        ledger.commit([admission])
        admitted_at = clock.wall
        first = round(rng.lognormvariate(5.3 if model == "small" else 6.1, 0.6))
        clock.wall += first + completion * rng.randint(8, 20)
        ledger.commit(
            [
                Settlement(
                    request_id=admission.request_id,
                    prompt_tokens=prompt,
                    cached_tokens=round(prompt * rng.choice((0, 0.2, 0.6, 0.85))),
                    completion_tokens=completion,
                    result=rng.choices(_RESULTS, (95, 3, 2))[0],
                    first_token_ms=first,
                    attempts=_attempts(first, clock.wall - admitted_at) if model == "coder" else None,
                )
            ]
        )
    clock.advance(max(0, round((end - clock.wall) / 1000)))
    ledger.close()


def _attempts(first: int, total: int) -> str:
    """Return the JSON of the attempts of a request; one in nine was refused before."""
    refused_ms = first // 3 if first % 9 == 0 else 0
    refused = [["coder/0", "refused", 1, refused_ms]] if refused_ms else []
    return msgspec.json.encode([*refused, [f"coder/{1 + first % 2}", "finished", refused_ms + 1, total]]).decode()
