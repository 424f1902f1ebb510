import ctypes
import gc
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dragoman.engines.llama.native.libraries import ik_llama_layouts, llama_cpp
from dragoman.engines.llama.native.libraries.binding import Library, LibraryError
from dragoman.engines.llama.native.libraries.builds import IK_LLAMA_CPP, LLAMA_CPP
from dragoman.engines.llama.native.libraries.choice import load_library
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp
from tests.support.libraries import INSTALLED_BUILDS

OTHER_BUILD = """
struct params { unsigned first; unsigned second; char rest[SIZE - 2 * sizeof(unsigned)]; };
struct params llama_context_default_params(void) { return (struct params){ 512, 1024 }; }
"""
"""Another default for the second field. All other functions come from the packaged library that it is linked to."""

PARAMS_SIZE = {
    LLAMA_CPP: ctypes.sizeof(llama_cpp.LlamaContextParams),
    IK_LLAMA_CPP: ctypes.sizeof(ik_llama_layouts.IkLlamaContextParams),
}


@pytest.fixture(params=INSTALLED_BUILDS)
def build(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def library(build: str) -> Library:
    return load_library(build)


@pytest.fixture
def other_build(build: str, library: Library, tmp_path: Path) -> Path:
    """A library that loads, has every function, and is not the pinned build."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, other = tmp_path / "other.c", tmp_path / "libother.so"
    source.write_text(OTHER_BUILD)
    options = ["-shared", "-fPIC", "-Wl,--no-as-needed", f"-Wl,-rpath,{library.path.parent}"]
    size = f"-DSIZE={PARAMS_SIZE[build]}"
    subprocess.run([compiler, *options, size, "-o", other, source, library.path], check=True)
    return other


def test_the_packaged_library_is_the_pinned_build(library: Library) -> None:
    assert re.search(r"\d", library.version())
    assert all(path.is_file() for path in library.files)


def test_a_function_that_is_not_bound_is_named(library: Library) -> None:
    with pytest.raises(AttributeError, match="llama_save_everything is not bound"):
        library.llama_save_everything()


def test_the_log_of_a_library_is_shared_by_all_its_objects_and_outlives_them(
    build: str, library: Library, tmp_path: Path
) -> None:
    load_library(build)
    gc.collect()
    library.recent_log.clear()
    path = str(tmp_path / "absent.gguf").encode()
    assert not library.llama_model_load_from_file(path, library.llama_model_default_params())
    assert any("absent.gguf" in line for line in library.recent_log)


@pytest.mark.parametrize("library", ["libm.so.6", "libc.so.6"])
def test_a_library_that_is_not_llama_cpp_is_refused(library: str) -> None:
    with pytest.raises(LibraryError, match=rf"^{library} is not a usable llama.cpp library: .*llama_model_default"):
        LlamaCpp(Path(library))


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "libtext.so"
    path.write_text("text")
    with pytest.raises(LibraryError, match=re.escape(f"{path} is not a usable llama.cpp library: ")):
        LlamaCpp(path)


def test_a_missing_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="No such file"):
        LlamaCpp(tmp_path / "libllama.so")


def test_a_build_with_other_defaults_is_refused_naming_itself_the_pinned_version_and_the_field(
    library: Library, other_build: Path
) -> None:
    with pytest.raises(LibraryError) as caught:
        type(library)(other_build)
    message = str(caught.value)
    assert message.startswith(f"{other_build} is another build of llama.cpp")
    assert library.pinned in message
    assert re.search(r"the default of llama_context_params\.n_(batch|ctx) is 1024, expected (2048|512)$", message)
