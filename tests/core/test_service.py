from dragoman.core.service import Caller


def test_a_callers_key_is_in_no_text_of_it() -> None:
    caller = Caller("0" * 32, "sk-0123456789abcdef", "10.0.0.1")
    for text in (repr(caller), str(caller), f"{caller}"):
        assert "sk-" not in text
