"""How the text of a job's answers is read, in the tokens of its model."""

from collections.abc import Callable
from typing import NamedTuple

from dragoman.output.parts import OutputParser


class TokenizedOutputFormat(NamedTuple):
    """What is not plain text in the answers of one job."""

    new_parser: Callable[[], OutputParser | None] = lambda: None
    """A reader for one choice; None: all of it is content."""
    markup_token_ids: frozenset[int] = frozenset()
    """Special tokens whose text the reader must see."""
    reasoning_budget: int | None = None
    """Tokens a choice may think; None: as many as it likes."""
    reasoning_end_token_ids: tuple[int, ...] = ()
    """What ends a thought that is longer."""


PLAIN_OUTPUT = TokenizedOutputFormat()
"""Content and nothing else."""
