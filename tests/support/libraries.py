"""The installed builds of llama.cpp."""

import pytest

from dragoman.engines.llama.native.libraries.binding import package_folder
from dragoman.engines.llama.native.libraries.builds import LLAMA_CPP, PACKAGED_BUILDS

INSTALLED_BUILDS = (LLAMA_CPP,) if package_folder("ik_llama_cpp") is None else PACKAGED_BUILDS

requires_ik_llama_cpp = pytest.mark.skipif(
    INSTALLED_BUILDS != PACKAGED_BUILDS, reason="there is no ik_llama.cpp for this machine"
)
