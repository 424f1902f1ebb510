"""A file is read as it was written, or not at all."""

import stat
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.engines.llama.saved.prefix_file import (
    PrefixHead,
    UnusablePrefix,
    WritingStopped,
    checksum,
    read_head,
    read_prefix,
    write_prefix,
)

STATE = np.arange(3000, dtype=np.uint32).astype(np.uint8)
TOKENS = np.arange(300, dtype=np.int32)
HEAD = PrefixHead(
    fingerprint="model",
    adapter="",
    scope="owner",
    public_tokens=7,
    start=100,
    tokens=TOKENS.astype("<i4").tobytes(),
    state_bytes=len(STATE),
    state_checksum=checksum(STATE),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prefixes") / "written"
    write_prefix(path, HEAD, STATE, lambda: False)
    return path


def test_a_file_is_read_as_it_was_written_and_by_its_user_only(written: Path) -> None:
    head, state = read_prefix(written)
    assert head == read_head(written) == HEAD
    assert (state == STATE).all()
    assert (head.token_array == TOKENS).all()
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert [path.name for path in written.parent.iterdir()] == ["written"]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_damaged_file_is_read(written: Path, data: st.DataObject) -> None:
    content = bytearray(written.read_bytes())
    kind = data.draw(st.sampled_from(["changed", "cut", "longer"]))
    if kind == "changed":
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content += data.draw(st.binary(min_size=1, max_size=100))
    damaged = written.parent / "damaged"
    damaged.write_bytes(content)
    with pytest.raises(UnusablePrefix):
        read_prefix(damaged)


def test_a_head_of_another_version_is_refused(written: Path) -> None:
    encoded = msgspec.msgpack.encode({"fingerprint": "model"})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(encoded, type=PrefixHead)
    other = written.parent / "other"
    other.write_bytes(b"dragoman prefix\x02" + written.read_bytes()[16:])
    with pytest.raises(UnusablePrefix, match="of this version"):
        read_head(other)


def test_nothing_remains_of_a_file_that_was_given_up(tmp_path: Path) -> None:
    with pytest.raises(WritingStopped):
        write_prefix(tmp_path / "given-up", HEAD, STATE, lambda: True)
    assert list(tmp_path.iterdir()) == []
