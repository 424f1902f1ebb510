"""What tests need to know of llama.cpp's builds."""

import pytest

from dragoman.engines.llama.libraries.binding import package_folder
from dragoman.engines.llama.libraries.choice import LLAMA_CPP, PACKAGED

INSTALLED = (LLAMA_CPP,) if package_folder("ik_llama_cpp") is None else PACKAGED

needs_both = pytest.mark.skipif(INSTALLED != PACKAGED, reason="there is no ik_llama.cpp for this machine")
