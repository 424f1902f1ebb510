import uuid

from dragoman.accounts.identifiers import key_digest, new_key, new_request_id


def test_request_ids_grow_with_time_and_are_uuids_of_version_7() -> None:
    ids = [new_request_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [each[:12] for each in ids] == sorted(each[:12] for each in ids)
    for each in ids:
        parsed = uuid.UUID(hex=each)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)


def test_a_key_has_256_random_bits_behind_its_prefix() -> None:
    first, second = new_key(), new_key()
    assert first != second
    assert first.startswith("sk-")
    assert len(first) == 3 + 43  # base64url of 32 bytes without padding


def test_only_a_digest_is_kept_of_whatever_was_sent_as_a_key() -> None:
    assert key_digest("sk-a") == key_digest("sk-a") != key_digest("sk-b")
    assert len(key_digest("\udcff")) == 64
