import fcntl
import platform
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
from gguf import GGMLQuantizationType as Type

from dragoman.engines.llama.weights.digests import content_digest
from dragoman.engines.llama.weights.rewriting import RewrittenModel, faster_file, rewritten_models
from tests.support.gguf_files import random_tensor, write_gguf
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

pytestmark = [
    pytest.mark.usefixtures("cache"),
    pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="measured there only"),
]

WEIGHTS = random_tensor(32, 64)
SLOW = {"norm": (WEIGHTS[0], Type.F32), "a": (WEIGHTS, Type.Q4_1), "b": (WEIGHTS, Type.Q5_1)}

ONE_SERVER = (
    "import sys; from pathlib import Path; from dragoman.engines.llama.weights.rewriting import faster_file; "
    "print(faster_file(Path(sys.argv[1]), progress=False, notify=print))"
)


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "slow.gguf", SLOW)


def served_file(path: Path, notices: list[str]) -> Path:
    return faster_file(path, progress=False, notify=notices.append)


def test_a_slow_file_is_rewritten_once_and_reported_in_one_line(slow: Path, cache: Path, notices: list[str]) -> None:
    copy = served_file(slow, notices)
    assert copy == cache / "rewritten" / f"{content_digest(slow)}-1.gguf"
    assert [tensor.tensor_type for tensor in gguf.GGUFReader(copy).tensors] == [Type.F32, Type.Q8_0, Type.Q8_0]
    [line] = notices
    assert line.startswith(f"rewrote slow.gguf (Q5_1) as Q8_0 for speed: {copy}, ")
    assert line.endswith("--requantize never to serve it as it is")
    made = copy.stat()
    assert served_file(slow, notices) == copy
    assert copy.stat() == made
    assert notices == [line]


def test_the_same_content_elsewhere_has_the_same_copy(slow: Path, tmp_path: Path, notices: list[str]) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(slow.read_bytes())
    assert served_file(slow, notices) == served_file(other, notices)
    assert len(notices) == 1


def test_other_content_under_the_same_name_gets_another_copy(slow: Path, notices: list[str]) -> None:
    first = served_file(slow, notices)
    write_gguf(slow, SLOW, metadata={"general.name": "newer"})
    assert served_file(slow, notices) != first
    assert rewritten_models() == sorted([RewrittenModel(first, None), RewrittenModel(served_file(slow, notices), slow)])


@pytest.mark.parametrize("kind", [Type.F16, Type.Q8_0, Type.Q5_0, Type.Q4_0])
def test_a_file_with_mostly_fast_formats_is_served_unchanged(
    tmp_path: Path, cache: Path, notices: list[str], kind: Type
) -> None:
    mixed = {"a": (WEIGHTS[:8], Type.Q4_1), "b": (WEIGHTS, kind)}
    path = write_gguf(tmp_path / "fast.gguf", mixed)
    assert (served_file(path, notices), notices) == (path, [])
    assert not cache.exists()


def test_a_file_that_is_no_model_is_left_to_llama_cpp(tmp_path: Path, slow: Path, notices: list[str]) -> None:
    nonsense = tmp_path / "nonsense.gguf"
    nonsense.write_bytes(b"once upon a time")
    assert served_file(nonsense, notices) == nonsense
    assert served_file(tmp_path / "missing.gguf", notices) == tmp_path / "missing.gguf"
    assert notices == []


def test_a_truncated_file_is_served_unchanged_with_one_line(slow: Path, cache: Path, notices: list[str]) -> None:
    slow.write_bytes(slow.read_bytes()[:-200])
    assert served_file(slow, notices) == slow
    [line] = notices
    assert "slow.gguf (Q5_1) is served as it is, though Q8_0 would be faster" in line
    assert list(cache.rglob("*.gguf")) == []


def test_a_split_model_is_served_unchanged_with_one_line(tmp_path: Path, notices: list[str]) -> None:
    first, _ = [write_gguf(tmp_path / f"m-0000{number}-of-00002.gguf", SLOW) for number in (1, 2)]
    assert served_file(first, notices) == first
    [line] = notices
    assert "it is split into several files" in line


def test_a_cache_that_cannot_be_written_leaves_the_original_with_one_line(
    slow: Path, cache: Path, notices: list[str]
) -> None:
    cache.parent.write_bytes(b"a file where the folder should be")
    assert served_file(slow, notices) == slow
    [line] = notices
    assert f"{cache}" in line
    assert "Not a directory" in line
    assert rewritten_models() == []


def test_a_copy_that_would_fill_the_memory_is_refused_in_one_line(slow: Path, cache: Path, notices: list[str]) -> None:
    with slow.open("r+b") as file:
        file.truncate(2**40)  # The last tensor now covers a hole in the file, which is never read.
    assert served_file(slow, notices) == slow
    [line] = notices
    assert "it would take more than half of the memory" in line
    assert not cache.exists()


def test_a_disk_that_is_full_in_the_middle_leaves_the_original_and_nothing_else(slow: Path, cache: Path) -> None:
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)); " + ONE_SERVER
    outcome = subprocess.run(
        [sys.executable, "-c", program, str(slow)],
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT_SECONDS,
        check=True,
    )
    notices, path = outcome.stdout.splitlines()
    assert path == str(slow)
    assert "File too large" in notices
    assert [path.name for path in cache.joinpath("rewritten").iterdir()] == ["lock"]


def test_two_servers_that_start_together_make_one_copy(slow: Path, cache: Path) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", ONE_SERVER, str(slow)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=TEST_TIMEOUT_SECONDS)[0].splitlines() for process in both]
    [copy] = cache.rglob("*.gguf")
    assert [lines[-1] for lines in outputs] == [str(copy)] * 2
    assert sum(line.startswith("rewrote") for lines in outputs for line in lines) == 1
    assert [path.name for path in copy.parent.iterdir() if path != copy] == ["lock"]


def test_an_unfinished_copy_of_a_killed_server_is_overwritten(slow: Path, cache: Path, notices: list[str]) -> None:
    folder = cache / "rewritten"
    folder.mkdir(parents=True)
    folder.joinpath(f"{content_digest(slow)}-1.unfinished").write_bytes(b"half a file")
    copy = served_file(slow, notices)
    assert len(gguf.GGUFReader(copy).tensors) == 3
    assert sorted(path.name for path in folder.iterdir()) == sorted([copy.name, "lock"])
    with folder.joinpath("lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
