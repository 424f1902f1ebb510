"""Several machines with dragoman on one PostgreSQL, and what has to hold whatever happens to them."""

import asyncio
import bisect
import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import select

from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.administration.keys import KeyRules, create_key
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.administration.usage import UsageRecord
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.database.tables import accounts, keys
from tests.support.hosts.chats import MAX_TOKENS, ChatClients
from tests.support.hosts.network import Network
from tests.support.hosts.postgresql import DatabaseMachine, running_database
from tests.support.hosts.servers import Host, running_hosts, running_nginx, settings
from tests.support.ledger_harness import CACHED_PRICE, COMPLETION_PRICE, PROMPT_PRICE
from tests.support.metered import AMPLE_BALANCE, AccountFixture

HERE, ANYWHERE, WITNESSED = "here", "anywhere", "witnessed"
"""Computed by the machine that is asked, by any of them, and by the witness."""

REQUESTS_PER_MINUTE = 100
_MINUTE_MILLISECONDS = 60_000

_MAX_COMPUTED_TOKENS = 4
"""Of an answer to a key with a limit, if a model computes it."""


class Cluster:
    """The machines, and the accounts in their database."""

    def __init__(
        self,
        network: Network,
        database: DatabaseMachine,
        hosts: Sequence[Host],
        certificate: Path,
        fixture: AccountFixture,
        *,
        model: str,
    ) -> None:
        self.network = network
        self.database = database
        self.hosts = hosts
        self.certificate = str(certificate)
        self.fixture = fixture
        self.exact = model == "echo"
        """Whether answers repeat the questions."""
        # All machines share the processors of one, and a client waits for 20 seconds at most.
        self._limited_tokens = MAX_TOKENS if self.exact else _MAX_COMPUTED_TOKENS

    def new_key(self, rules: KeyRules | None = None) -> str:
        """Create a key of the clients' account."""
        return self.fixture.new_key(rules)

    def limited_clients(self, key: str) -> list[ChatClients]:
        """Return clients of each machine that have a key with a limit, and ask for many answers at once."""
        return [
            ChatClients(host.url, key, seed=number, exact=self.exact, max_tokens=self._limited_tokens)
            for number, host in enumerate(self.hosts)
        ]

    async def wait_until_ready(self) -> None:
        """Wait until all machines say that they are."""
        for host in self.hosts:
            await asyncio.to_thread(host.wait_until_ready)

    async def burst(self, requests: int) -> Counter[str]:
        """Send so many requests of one new key with a limit to all machines at the same time. Returns the outcomes."""
        key = self.new_key(KeyRules(requests_per_minute=REQUESTS_PER_MINUTE))
        found: Counter[str] = Counter()
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(each) for each in self.limited_clients(key)]
            asked = (clients[number % len(clients)].ask(HERE, stream=False) for number in range(requests))
            found.update(answer.outcome for answer in await asyncio.gather(*asked))
        return found

    def books(self, answered: dict[str, int]) -> list[str]:
        """Return what is wrong in the accounts. `answered`: delivered tokens by the ids of whole answers."""
        wrong = list(map(str, find_discrepancies(self.fixture.database)))
        with self.fixture.database.read() as connection:
            wrong += [f"{held} are held" for held in connection.execute(select(accounts.c.holds)).scalars() if held]
            running = connection.execute(select(keys.c.running)).scalars()
            wrong += [f"{count} requests of a key run" for count in running if count]
        usage = self.fixture.usage
        records = {record.request_id: record for record in usage}
        wrong += [f"{len(usage) - len(records)} requests are charged twice"] if len(records) < len(usage) else []
        wrong += [problem for item in answered.items() if (problem := _charging_problem(*item, records))]
        return wrong

    def most_in_a_minute(self, key_id: int) -> int:
        """Return how many requests of a key were admitted within any 60 seconds, at most."""
        moments = sorted(record.admitted_at for record in self.fixture.usage if record.key_id == key_id)
        return max(
            (
                bisect.bisect_left(moments, first + _MINUTE_MILLISECONDS) - number
                for number, first in enumerate(moments)
            ),
            default=0,
        )


def _charging_problem(request_id: str, tokens: int, records: dict[str, UsageRecord]) -> str | None:
    record = records.get(request_id)
    if record is None:
        return f"{request_id} was answered and is not recorded"
    if record.completion_tokens < tokens:
        return f"{request_id} was answered with {tokens} tokens and charged {record.completion_tokens}: {record}"
    return None


@contextlib.contextmanager
def running_cluster(
    count: int, *, model: str = "echo", tokens_per_second: float = 20, witness: bool = False, durable: bool = False
) -> Iterator[Cluster]:
    """Run so many machines with dragoman, and those of the database and of the proxy, until the end of the block.

    With `witness`, the machines are ready once that is served. `durable`: PostgreSQL waits for the disk.
    This thread is on the proxy's machine meanwhile.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hosts-", dir="/tmp")))
        network = stack.enter_context(Network(count))
        database = stack.enter_context(running_database(network.database, durable=durable))
        local = stack.enter_context(contextlib.closing(Database(database.local_url)))
        upgrade(local)
        fixture = AccountFixture(local)
        for name in (HERE, ANYWHERE, WITNESSED):
            set_price(local, name, PROMPT_PRICE, COMPLETION_PRICE, cached=CACHED_PRICE)
        peers = create_account(local, "peers").id
        deposit(local, peers, AMPLE_BALANCE)
        environment = {
            "DRAGOMAN_ACCOUNTS_DATABASE": database.url,
            "UPSTREAM_KEY_PEERS": create_key(local, peers).secret,
            "DRAGOMAN_ECHO_TOKENS_PER_SECOND": str(tokens_per_second),
            # Otherwise the logits of a resumed answer may differ in the last bit.
            "DRAGOMAN_ENGINE_REPRODUCIBLE": "true",
        }
        hosts = stack.enter_context(
            running_hosts(network, folder, settings(model, count, witness=witness), environment)
        )
        certificate = stack.enter_context(running_nginx(network, folder / "nginx"))
        yield Cluster(network, database, hosts, certificate, fixture, model=model)
