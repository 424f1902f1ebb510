from dragoman.core.context import Caller


def test_the_text_of_a_caller_never_contains_its_key() -> None:
    caller = Caller(request_id="0" * 32, key="sk-0123456789abcdef", address="10.0.0.1")
    for text in (repr(caller), str(caller), f"{caller}"):
        assert "sk-" not in text
