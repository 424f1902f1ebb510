from dragoman.accounts.identifiers import new_api_key
from dragoman.core.context import key_digest


def test_a_key_has_256_random_bits_after_its_prefix() -> None:
    first, second = new_api_key(), new_api_key()
    assert first != second
    assert first.startswith("sk-")
    assert len(first) == 3 + 43  # base64url of 32 bytes without padding


def test_any_key_that_is_sent_has_a_digest() -> None:
    assert key_digest("sk-a") == key_digest("sk-a") != key_digest("sk-b")
    assert len(key_digest("\udcff")) == 64
