"""Where a client's ledger runs: in a process of its own (handle.py) or in a thread of this one (ledger_thread.py)."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, Self

from dragoman.accounts.ledger.operations import LedgerOperation
from dragoman.accounts.process.messages import LedgerConfig, LedgerReply


class LedgerTransport(Protocol):
    """A process or thread that commits for one client. Create it by `start`; the owner must await `wait`."""

    sends_heartbeats: ClassVar[bool]
    """Whether its silence means that it hangs."""

    @property
    def frames_received(self) -> int:
        """Number of replies and heartbeats so far."""
        ...

    @classmethod
    async def start(cls, config: LedgerConfig) -> Self:
        """Start one. Raises OSError if the system cannot start another one."""
        ...

    def commit(self, operations: Sequence[LedgerOperation], *, is_retry: bool) -> None:
        """Send a transaction, to be done after all earlier ones. It is lost if the receiver is dead."""
        ...

    async def run(self, handle: Callable[[LedgerReply], None]) -> None:
        """Call `handle` with each reply as soon as it arrives, until the connection ends.

        Call it once, in the turn of the event loop that sends the first transaction. A task that waited for the replies
        would handle each of them a turn later.
        """
        ...

    def finish(self) -> None:
        """Let it end after answering everything."""
        ...

    def kill(self) -> None:
        """End it as soon as possible; transactions that it has not begun are lost."""
        ...

    async def wait(self) -> int:
        """Wait until it has ended, after its last reply; 0 after a normal end."""
        ...
