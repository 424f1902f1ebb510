from dragoman.core.service import Caller


def test_the_text_of_a_caller_never_contains_its_key() -> None:
    caller = Caller("0" * 32, "sk-0123456789abcdef", "10.0.0.1")
    for text in (repr(caller), str(caller), f"{caller}"):
        assert "sk-" not in text
