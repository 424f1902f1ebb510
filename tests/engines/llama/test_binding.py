import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dragoman.engines.llama.binding import PINNED, ContextParams, Library, LibraryError, packaged_library

OTHER_BUILD = """
struct params { unsigned n_ctx; unsigned n_batch; char rest[SIZE - 2 * sizeof(unsigned)]; };
struct params llama_context_default_params(void) { return (struct params){ 512, 1024 }; }
"""
"""Another default for the batch size; every other function comes from the packaged library it is linked to."""


@pytest.fixture
def other_build(tmp_path: Path) -> Path:
    """A library that loads, has every function, and is not the pinned build."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "other.c", tmp_path / "libother.so"
    source.write_text(OTHER_BUILD)
    options = ["-shared", "-fPIC", "-Wl,--no-as-needed", f"-DSIZE={ctypes.sizeof(ContextParams)}"]
    subprocess.run([compiler, *options, "-o", library, source, packaged_library()], check=True)
    return library


def test_the_packaged_library_is_the_pinned_build() -> None:
    library = Library(packaged_library())
    assert re.match(r"\d", library.version())


def test_a_function_that_is_not_bound_is_named() -> None:
    with pytest.raises(AttributeError, match="llama_save_everything is not bound"):
        Library(packaged_library()).llama_save_everything()


@pytest.mark.parametrize("library", ["libm.so.6", "libc.so.6"])
def test_a_library_that_is_not_llama_cpp_is_refused(library: str) -> None:
    with pytest.raises(LibraryError, match=rf"^{library} is not a usable llama.cpp library: .*llama_model_default"):
        Library(Path(library))


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "libtext.so"
    path.write_text("text")
    with pytest.raises(LibraryError, match=re.escape(f"{path} is not a usable llama.cpp library: ")):
        Library(path)


def test_a_missing_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="No such file"):
        Library(tmp_path / "libllama.so")


def test_a_build_with_other_defaults_is_refused_naming_itself_the_pinned_version_and_the_field(
    other_build: Path,
) -> None:
    with pytest.raises(LibraryError) as caught:
        Library(other_build)
    message = str(caught.value)
    assert message.startswith(f"{other_build} is another build of llama.cpp")
    assert PINNED in message
    assert message.endswith("the default of llama_context_params.n_batch is 1024, expected 2048")
