"""Saved prefixes are found after a restart, by those who would share them in memory, and within their budget."""

import resource
import shutil
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.engines.llama.saved.prefix_store import MIN_RESTORED_TOKENS, MIN_SAVED_TOKENS
from tests.support.captured_logs import capture_logs
from tests.support.saved_prefixes import RestartedEngine, files, load, open_store, save, segment, total
from tests.support.simulated_backend import ALL_TOKENS, reference_answer

DOCUMENT = [5] * 300
OTHER = [6] * 300


def test_a_prefix_is_found_after_a_restart(tmp_path: Path) -> None:
    before = RestartedEngine(tmp_path)
    assert before.cached_tokens(before.ask(DOCUMENT)) == 0
    after = RestartedEngine(tmp_path)
    key = after.ask([*DOCUMENT, 7, 8, 9])
    assert after.cached_tokens(key) == len(DOCUMENT)
    assert after.answers[key].tokens[0] == reference_answer([*DOCUMENT, 7, 8, 9], 1)
    assert sum(map(sum, after.backend.batches)) == 3
    after.assert_nothing_leaked()


def test_what_continues_a_prefix_is_saved_beside_it_and_found_with_it(tmp_path: Path) -> None:
    before = RestartedEngine(tmp_path, host_cache_tokens=2000)
    before.ask(DOCUMENT)
    size = total(tmp_path)
    before.ask([*DOCUMENT, *OTHER])
    assert len(files(tmp_path)) == 2
    assert total(tmp_path) < 3 * size, "the tokens that were there already are not written again"
    after = RestartedEngine(tmp_path, host_cache_tokens=2000)
    key = after.ask([*DOCUMENT, *OTHER, 9])
    assert after.cached_tokens(key) == len(DOCUMENT) + len(OTHER)


def test_short_turns_are_saved_once_they_are_long_together(tmp_path: Path) -> None:
    engine = RestartedEngine(tmp_path, host_cache_tokens=2000)
    engine.ask(DOCUMENT)
    turns = [*DOCUMENT]
    for turn in range(1, 6):
        turns += [turn] * 60
        engine.ask(turns)
        assert (len(files(tmp_path)) == 1) == (len(turns) - len(DOCUMENT) < MIN_SAVED_TOKENS)
    after = RestartedEngine(tmp_path, host_cache_tokens=2000)
    assert after.cached_tokens(after.ask([*turns, 9])) == len(turns)


def test_a_sequence_in_memory_is_not_read_again(tmp_path: Path) -> None:
    RestartedEngine(tmp_path).ask(DOCUMENT)
    store = open_store(tmp_path)
    [found] = load(store, DOCUMENT)
    assert load(store, DOCUMENT) == []
    del found
    assert len(load(store, DOCUMENT)) == 1


def test_another_fingerprint_has_files_of_its_own_and_deletes_foreign_ones(tmp_path: Path) -> None:
    save(open_store(tmp_path), segment(DOCUMENT))
    [file] = files(tmp_path)
    other = open_store(tmp_path, fingerprint="another model")
    assert load(other, DOCUMENT) == []
    save(other, segment(OTHER))
    [folder] = {path.parent for path in files(tmp_path)} - {file.parent}
    foreign = folder / file.name
    foreign.write_bytes(file.read_bytes())
    with capture_logs() as logged:
        assert load(open_store(tmp_path, fingerprint="another model"), DOCUMENT) == []
    [entry] = logged
    assert (entry["event"], entry["file"]) == ("saved_prefix_deleted", str(foreign))
    assert not foreign.exists()
    assert file.exists()


@pytest.mark.parametrize("damage", ["changed", "cut", "empty"])
def test_a_damaged_file_is_deleted_with_one_line_and_its_prefix_computed(tmp_path: Path, damage: str) -> None:
    RestartedEngine(tmp_path).ask(DOCUMENT)
    [file] = files(tmp_path)
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes({"changed": bytes(content), "cut": bytes(content[:-100]), "empty": b""}[damage])
    after = RestartedEngine(tmp_path)
    with capture_logs() as logged:
        key = after.ask([*DOCUMENT, 9])
    assert [entry["event"] for entry in logged] == ["saved_prefix_deleted"]
    assert after.cached_tokens(key) == 0
    assert after.answers[key].tokens[0] == reference_answer([*DOCUMENT, 9], 1)
    assert len(files(tmp_path)) == 1, "it is written again"
    again = RestartedEngine(tmp_path)
    assert again.cached_tokens(again.ask([*DOCUMENT, 9])) == len(DOCUMENT)


@contextmanager
def full_disk() -> Iterator[None]:
    """Let this process write no more than 1,000 bytes to a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_fails_no_request_and_is_reported_once_a_minute(tmp_path: Path) -> None:
    engine = RestartedEngine(tmp_path)
    with capture_logs() as logged, full_disk():
        keys = [engine.ask(prompt) for prompt in (DOCUMENT, OTHER)]
    assert [entry["event"] for entry in logged] == ["saved_prefix_not_written"]
    assert "File too large" in logged[0]["reason"]
    assert files(tmp_path) == []
    assert [engine.answers[key].tokens[0] for key in keys] == [
        reference_answer(prompt, 1) for prompt in (DOCUMENT, OTHER)
    ]


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    engine = RestartedEngine(tmp_path / "prefixes")
    engine.ask(DOCUMENT)
    shutil.rmtree(tmp_path / "prefixes")
    other = open_store(tmp_path / "prefixes")
    shutil.rmtree(tmp_path / "prefixes")
    assert load(other, DOCUMENT) == []
    engine.ask(OTHER)
    assert (load(other, DOCUMENT), len(load(other, OTHER))) == ([], 1)
    folders = [tmp_path / "prefixes", *(tmp_path / "prefixes").iterdir()]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_no_file_is_read_before_a_request_begins_like_it(tmp_path: Path) -> None:
    save(open_store(tmp_path), segment(DOCUMENT))
    [file] = files(tmp_path)
    for number in range(50):
        file.with_name(f"{number:016x}-{number:024x}.prefix").write_bytes(b"unread")
    with capture_logs() as logged:
        store = open_store(tmp_path)
        assert load(store, OTHER) == []
        assert len(load(store, DOCUMENT)) == 1
    assert logged == []
    assert len(files(tmp_path)) == 51


def test_a_request_does_not_look_at_files_of_other_owners(tmp_path: Path) -> None:
    save(open_store(tmp_path), segment(DOCUMENT, owner="alice"))
    [file] = files(tmp_path)
    file.write_bytes(b"whoever reads it deletes it")
    store = open_store(tmp_path)
    with capture_logs() as logged:
        assert load(store, DOCUMENT, owner="bob") == []
        assert logged == []
        assert load(store, DOCUMENT, owner="alice") == []
    assert [entry["event"] for entry in logged] == ["saved_prefix_deleted"]


def test_processes_share_a_folder(tmp_path: Path) -> None:
    one, other = open_store(tmp_path), open_store(tmp_path)
    assert load(other, DOCUMENT) == []
    save(one, segment(DOCUMENT))
    assert len(load(other, DOCUMENT)) == 1
    [file] = files(tmp_path)
    file.unlink()
    with capture_logs() as logged:
        assert load(other, DOCUMENT) == []
    assert logged == []


def test_a_lost_state_deletes_what_was_read(tmp_path: Path) -> None:
    save(open_store(tmp_path), segment(DOCUMENT))
    save(open_store(tmp_path), segment(OTHER))
    store = open_store(tmp_path)
    assert load(store, DOCUMENT)
    store.discard_read()
    after = open_store(tmp_path)
    assert (len(load(after, DOCUMENT)), len(load(after, OTHER))) == (0, 1)


def test_an_adapter_finds_what_the_same_one_has_computed(tmp_path: Path) -> None:
    save(open_store(tmp_path), segment(DOCUMENT), adapter="a 1.0")
    store = open_store(tmp_path)
    assert [len(load(store, DOCUMENT, adapter=adapter)) for adapter in ("", "b 1.0", "a 0.5", "a 1.0")] == [0, 0, 0, 1]


def test_images_are_not_saved(tmp_path: Path) -> None:
    save(open_store(tmp_path), segment([*DOCUMENT, -5, 7]))
    assert files(tmp_path) == []


def test_what_host_memory_cannot_hold_is_not_read(tmp_path: Path) -> None:
    save(open_store(tmp_path), segment(DOCUMENT))
    assert load(open_store(tmp_path), DOCUMENT, max_tokens=299) == []


def test_few_tokens_are_not_read(tmp_path: Path) -> None:
    save(open_store(tmp_path), segment(DOCUMENT))
    few = [*[5] * (MIN_RESTORED_TOKENS - 1), *OTHER]
    assert load(open_store(tmp_path), few) == []
    assert len(load(open_store(tmp_path), [5, *few])) == 1


def test_owners_and_salts_are_not_written(tmp_path: Path) -> None:
    RestartedEngine(tmp_path).ask(DOCUMENT, owner="key group red", cache_salt="pepper")
    [file] = files(tmp_path)
    assert not any(word in file.read_bytes() for word in (b"red", b"pepper"))


requests = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 140, 300]),
        st.lists(st.sampled_from([7, 7, 9]), min_size=1, max_size=4),
        st.sampled_from("ab"),
        st.sampled_from(["", "salt"]),
        st.booleans(),
    ),
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(
    requests=requests,
    host_cache_tokens=st.sampled_from([0, 700, 10_000]),
    reuses_cells=st.booleans(),
    divisible_tokens=st.sampled_from([ALL_TOKENS, 15, 0]),
)
def test_restarts_share_no_more_than_one_process_would_and_change_no_answer(
    tmp_path_factory: pytest.TempPathFactory,
    requests: list[tuple[int, list[int], str, str, bool]],
    host_cache_tokens: int,
    *,
    reuses_cells: bool,
    divisible_tokens: int,
) -> None:
    folder = tmp_path_factory.mktemp("prefixes")

    def start() -> RestartedEngine:
        return RestartedEngine(
            folder,
            host_cache_tokens=host_cache_tokens,
            reuses_cells=reuses_cells,
            divisible_tokens=divisible_tokens,
            max_batched_tokens=512,
        )

    engine = start()
    known: dict[tuple[str, str], list[list[int]]] = {}
    for public, blocks, owner, salt, restarts in requests:
        prompt = [7] * public + [token for token in blocks for _ in range(150)]
        own = known.setdefault((owner, salt), [])
        most = max([public, *(_common(prompt, [*one, *reference_answer(one, 2)]) for one in own)])
        if restarts:
            engine.assert_nothing_leaked()
            engine = start()
        key = engine.ask(prompt, owner=owner, cache_salt=salt, public_tokens=public, limit=2)
        assert engine.cached_tokens(key) <= most
        assert engine.answers[key].tokens[0] == reference_answer(prompt, 2)
        own.append(prompt)


def _common(left: list[int], right: list[int]) -> int:
    different = (index for index, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    return next(different, min(len(left), len(right)))


@pytest.mark.parametrize("divisible_tokens", [15, 0])
def test_a_sequence_that_has_no_parts_is_continued_from_its_end(tmp_path: Path, divisible_tokens: int) -> None:
    before = RestartedEngine(tmp_path, divisible_tokens=divisible_tokens)
    before.ask(DOCUMENT, limit=1)
    after = RestartedEngine(tmp_path, divisible_tokens=divisible_tokens)
    other = after.ask([*DOCUMENT[:200], 9])
    assert after.cached_tokens(other) == 0
    key = after.ask([*DOCUMENT, 9])
    assert after.cached_tokens(key) == len(DOCUMENT)
    assert after.answers[key].tokens[0] == reference_answer([*DOCUMENT, 9], 1)


def test_public_tokens_are_shared_after_a_restart_and_nothing_behind_them(tmp_path: Path) -> None:
    before = RestartedEngine(tmp_path, host_cache_tokens=2000)
    before.ask([*DOCUMENT, *OTHER], owner="alice", public_tokens=300)
    after = RestartedEngine(tmp_path, host_cache_tokens=2000)
    bob = after.ask([*DOCUMENT, *OTHER], owner="bob", public_tokens=300)
    assert after.cached_tokens(bob) == 300
    alice = after.ask([*DOCUMENT, *OTHER], owner="alice", public_tokens=300)
    assert after.cached_tokens(alice) == 599
    carol = after.ask([*DOCUMENT, *OTHER], owner="carol")
    assert after.cached_tokens(carol) == 0


def test_the_beginning_of_another_owner_is_not_saved_as_ones_own(tmp_path: Path) -> None:
    secret = [8] * 300
    engine = RestartedEngine(tmp_path, host_cache_tokens=2000)
    engine.ask([*DOCUMENT, *secret], owner="alice", public_tokens=300)
    engine.ask([*DOCUMENT, *OTHER], owner="bob", public_tokens=300)
    after = RestartedEngine(tmp_path, host_cache_tokens=2000)
    own = after.ask([*DOCUMENT, *OTHER, 9], owner="bob", public_tokens=300)
    assert after.cached_tokens(own) == 600
    guess = after.ask([*DOCUMENT, *secret, 9], owner="bob", public_tokens=300)
    assert after.cached_tokens(guess) == 300


def test_a_file_that_cannot_be_used_in_part_is_read_only_for_all_of_its_tokens(tmp_path: Path) -> None:
    save(open_store(tmp_path), segment(DOCUMENT))
    store = open_store(tmp_path, whole_only=True)
    assert load(store, [*DOCUMENT[:299], 9]) == []
    assert len(load(store, [*DOCUMENT, 9])) == 1
