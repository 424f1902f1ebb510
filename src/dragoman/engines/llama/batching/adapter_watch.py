"""What a batcher reports about adapters."""

from contextlib import AbstractContextManager, nullcontext


class AdapterWatch:
    """Watches what adapters do. This one does nothing."""

    def computing(self, number: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Note that the block computes with this adapter."""
        return nullcontext()

    def unloaded(self, number: int) -> None:
        """Note that an adapter is no longer in memory."""
