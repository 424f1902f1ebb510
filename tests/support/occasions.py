"""What bodies are decoded with in tests of the codecs."""

from collections.abc import Sequence

from dragoman.core.service import ServedModel
from dragoman.dialects.form import Occasion

ID = "0123456789abcdef0123456789abcdef"
CREATED = 1732150000


def occasion(models: Sequence[ServedModel] | None = None, **arguments: str) -> Occasion:
    """A request with these arguments in its path; without `models`, one that was let in before."""
    return Occasion(ID, CREATED, arguments, None if models is None else lambda: models)
