"""Decode contexts for tests of the codecs."""

from collections.abc import Sequence

from dragoman.core.models import ServedModel
from dragoman.dialects.http.codec import DecodeContext

ID = "0123456789abcdef0123456789abcdef"
CREATED = 1732150000


def decode_context(models: Sequence[ServedModel] | None = None, **arguments: str) -> DecodeContext:
    """Return the context of a request with these arguments in its path; without `models`, of a restored one."""
    by_name = {name: model for model in models or () for name in (model.id, *model.aliases)}
    return DecodeContext(ID, CREATED, arguments, None if models is None else by_name.get)
