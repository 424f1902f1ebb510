import msgspec

from dragoman.prompt.pieces import Content, Thought
from dragoman.prompt.reading import Reading, build_reader
from dragoman.prompt.thinking import Thinking
from tests.support.pieces import call, read

THINKING = Thinking("<think>", "</think>", begun=True, budget=128)
ANSWER = 'Hm.</think><tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def test_an_answer_that_can_only_be_text_needs_no_reader() -> None:
    assert build_reader(Reading()) is None


def test_thoughts_and_calls_are_read_where_they_are_expected() -> None:
    both = build_reader(Reading("hermes", THINKING))
    only_thought = build_reader(Reading(None, THINKING))
    only_calls = build_reader(Reading("hermes", None))
    assert both is not None
    assert only_thought is not None
    assert only_calls is not None
    assert read(both, ANSWER) == [Thought("Hm."), *call(0, "f", "{}")]
    assert read(only_thought, ANSWER) == [Thought("Hm."), Content(ANSWER.removeprefix("Hm.</think>"))]
    assert read(only_calls, ANSWER) == [Content("Hm.</think>"), *call(0, "f", "{}")]


def test_a_reading_crosses_a_socket() -> None:
    for reading in (Reading(), Reading("mistral", THINKING)):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(reading), type=Reading) == reading
