"""Sequences whose mask takes so long that the others do not wait for it: they have no step until it has come."""

from collections.abc import Iterator

from dragoman.engines.llama.arrays import Logits
from dragoman.engines.llama.batching.cache import ScheduledChunk
from dragoman.engines.llama.batching.sequence import ChoiceSequence
from dragoman.output.constraint import GrammarConstraint, MaskWorker

_WAIT_SECONDS = 0.05
"""How long a step waits at most if masks are all there is to wait for: commands are taken between steps."""


class LateMasks:
    """The sequences, with the logits that their masks apply to."""

    def __init__(self) -> None:
        self.kept: dict[ChoiceSequence, tuple[ScheduledChunk, Logits, GrammarConstraint]] = {}

    def add(self, scheduled: ScheduledChunk, logits: Logits, constraint: GrammarConstraint) -> None:
        """Keep the logits after a chunk: float32[1, vocabulary]."""
        self.kept[scheduled.sequence] = scheduled._replace(draft=()), logits.copy(), constraint

    def remove(self, sequence: ChoiceSequence) -> None:
        """Forget a sequence, if it is there."""
        self.kept.pop(sequence, None)

    def take_ready(self) -> Iterator[tuple[ScheduledChunk, Logits]]:
        """Remove and yield what can be sampled now. Others may be removed meanwhile."""
        for sequence, (scheduled, logits, constraint) in list(self.kept.items()):
            if sequence in self.kept and constraint.is_ready:
                del self.kept[sequence]
                if sequence.has_slot and not sequence.pending:  # Otherwise it was preempted, and computes them again.
                    yield scheduled, logits

    def wait(self, masks: MaskWorker) -> None:
        """Wait for a mask when there is nothing else to do."""
        masks.wait_for_any([constraint for _, _, constraint in self.kept.values()], _WAIT_SECONDS)
