"""The bundled model, loaded once for all tests of this folder."""

from collections.abc import Iterator

import pytest

from dragoman.engines.llama.binding import Library, packaged_library
from dragoman.engines.llama.model import Model
from dragoman.engines.llama.sources import bundled


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    """The bundled model's weights and vocabulary."""
    model = Model(Library(packaged_library()), bundled().path)
    yield model
    model.close()
