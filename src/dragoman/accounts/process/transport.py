"""How a client reaches the ledger: by a process of its own (child.py) or by a thread of this one (ledger_thread.py)."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, Self

from dragoman.accounts.ledger.operations import LedgerOperation
from dragoman.accounts.process.messages import LedgerConfig, LedgerReply


class LedgerTransport(Protocol):
    """One life of what commits for one client. Started by `start`; whoever has it waits for `wait`."""

    @classmethod
    async def start(cls, config: LedgerConfig) -> Self:
        """Raises OSError when the machine has no room for another one."""
        ...

    def commit(self, operations: Sequence[LedgerOperation], *, is_retry: bool) -> None:
        """Do these in one transaction, after all that was sent before. What is sent to a dead one is lost."""
        ...

    def replies(self) -> AsyncIterator[LedgerReply]:
        """Until its end."""
        ...

    def finish(self) -> None:
        """Let it end when it has answered everything."""
        ...

    def kill(self) -> None:
        """End it as soon as can be; what it has not begun is lost."""
        ...

    async def wait(self) -> int:
        """Wait until it is gone, after its last reply; 0 when it ended in order."""
        ...
