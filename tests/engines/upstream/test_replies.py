import msgspec
import pytest

from dragoman.engines.upstream.replies import decode_reply

decode_list = msgspec.json.Decoder(list[object]).decode


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        (b"\\ud83d\\ude00", "\U0001f600"),
        (b"\\ud83d", "\ufffd"),
        (b"\\ude00\\ud83d", "\ufffd\ufffd"),
        (b"\\\\ud83d \\ud83dx", "\\ud83d \ufffdx"),
        (b"\xe2\x82", "\ufffd"),
        (b"\xe2\x82\xac", "\u20ac"),
    ],
)
def test_halves_of_characters_are_replaced(text: bytes, decoded: str) -> None:
    assert decode_reply(decode_list, b'["%b"]' % text) == [decoded]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 100_000, b'["a"'])
def test_what_is_malformed_is_reported_as_such(data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_reply(decode_list, data)
