import uuid

from dragoman.core.context import new_request_id


def test_request_ids_increase_over_time_and_are_version_7_uuids() -> None:
    ids = [new_request_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [each[:12] for each in ids] == sorted(each[:12] for each in ids)
    for each in ids:
        parsed = uuid.UUID(hex=each)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
