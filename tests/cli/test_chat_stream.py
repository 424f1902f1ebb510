import json

import pytest

from dragoman.cli.chat_stream import AnswerInterrupted, iter_events, iter_lines, iter_texts


def chunk(text: str | None) -> bytes:
    data = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}, ensure_ascii=False)
    return f"data: {data}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def test_the_texts_of_an_answer_keep_their_order() -> None:
    assert list(iter_texts([chunk("a") + chunk("b"), DONE])) == ["a", "b"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_chunks_may_be_cut_anywhere(size: int) -> None:
    body = chunk("Grüße, 世界") + chunk(" 🙂") + DONE
    assert "".join(iter_texts(body[i : i + size] for i in range(0, len(body), size))) == "Grüße, 世界 🙂"


def test_only_lf_and_crlf_end_a_line() -> None:
    assert list(iter_lines(["a\u2028b\x0cc\r\nd\n".encode(), b"unfinished"])) == ["a\u2028b\x0cc", "d"]
    assert list(iter_texts([chunk("a\u2028b"), DONE])) == ["a\u2028b"]


def test_comments_and_other_fields_are_ignored() -> None:
    assert list(iter_events([": keep-alive", "", "event: x", "id: 1", "data: y", ""])) == ["y"]


def test_an_event_of_several_data_lines_is_joined_and_a_space_is_optional() -> None:
    assert list(iter_events(["data:a", "data:  b", ""])) == ["a\n b"]


def test_an_unfinished_event_is_dropped() -> None:
    assert list(iter_events(["data: a"])) == []


def test_chunks_without_text_are_skipped() -> None:
    role = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n'
    assert list(iter_texts([role, chunk(None), chunk(""), chunk("a"), usage, DONE])) == ["a"]


def test_bytes_after_the_terminator_are_not_read() -> None:
    assert list(iter_texts([chunk("a") + DONE + b"data: nonsense\n\n"])) == ["a"]


def test_an_error_in_the_stream_breaks_the_answer() -> None:
    texts = iter_texts([chunk("a"), b'data: {"error":{"message":"the engine died"}}\n\n', DONE])
    assert next(texts) == "a"
    with pytest.raises(AnswerInterrupted, match="the server broke the answer off: the engine died"):
        next(texts)


@pytest.mark.parametrize("end", [b"", b"data: [DONE]", b'data: {"choi'])
def test_a_stream_without_its_terminator_is_reported(end: bytes) -> None:
    texts = iter_texts([chunk("a"), end])
    assert next(texts) == "a"
    with pytest.raises(AnswerInterrupted, match="the answer was cut off: the stream ended without its end mark"):
        next(texts)


@pytest.mark.parametrize("data", [b"<html>", b'{"choices": 3}', b"[]"])
def test_an_invalid_chat_completion_is_reported(data: bytes) -> None:
    with pytest.raises(AnswerInterrupted, match="the server sent no chat completion: "):
        list(iter_texts([b"data: " + data + b"\n\n"]))
