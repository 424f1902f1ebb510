"""Answers of upstreams, from chunks to events."""

import json
from typing import Any

import pytest

from dragoman.core.events import (
    AnyDelta,
    Delta,
    Event,
    Finished,
    PromptTokens,
    ReasoningDelta,
    Started,
    TokenLogprobs,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from dragoman.engines.upstream.answer import UNKNOWN_TOKEN, BrokenAnswer, UpstreamAnswer

USAGE = {"prompt_tokens": 7, "completion_tokens": 2}


def chat(delta: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, **fields}]}


def events(*chunks: dict[str, Any], n: int = 1, reports_prompt: bool = False) -> tuple[list[Event], UpstreamAnswer]:
    answer = UpstreamAnswer(n=n, prompt_tokens=5, reports_prompt=reports_prompt)
    return [event for chunk in chunks for event in answer.feed([json.dumps(chunk).encode()])], answer


def test_text_is_counted_chunk_by_chunk_and_the_upstreams_usage_is_the_last_word() -> None:
    received, answer = events(
        chat({"role": "assistant", "content": ""}),
        chat({"content": "Hel"}),
        chat({"content": "lo"}),
        chat({}, finish_reason="stop"),
        {"choices": [], "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}},
    )
    assert received == [
        Started(5, 0),
        Delta(0, "Hel", unidentified_tokens=1),
        Delta(0, "lo", unidentified_tokens=1),
        Finished(0, "stop"),
    ]
    assert answer.usage() == Usage(7, 2, 4, source="upstream")


def test_a_server_that_counts_continuously_is_believed_from_chunk_to_chunk() -> None:
    received, answer = events(
        {**chat({"content": "Hello"}), "usage": {"prompt_tokens": 7, "completion_tokens": 3}},
        {**chat({"content": " you"}), "usage": {"prompt_tokens": 7, "completion_tokens": 4}},
        {**chat({}, finish_reason="length"), "usage": {"prompt_tokens": 7, "completion_tokens": 5}},
    )
    assert received[0] == Started(7, 0)
    assert [event.tokens for event in received if isinstance(event, AnyDelta)] == [3, 1, 1]
    assert answer.usage() == Usage(7, 5, 0, source="upstream")


def test_token_ids_are_passed_on_with_the_prompts() -> None:
    received, _ = events(
        {**chat({"content": "Hello"}, token_ids=[1, 2]), "prompt_token_ids": [3, 4]},
        chat({}, finish_reason="stop", token_ids=[]),
        reports_prompt=True,
    )
    assert received == [Started(5, 0), PromptTokens(0, [3, 4]), Delta(0, "Hello", [1, 2]), Finished(0, "stop")]


def test_without_any_usage_chunks_stand_for_tokens() -> None:
    _, answer = events(chat({"content": "a"}), chat({"content": "b"}), chat({}, finish_reason="stop"))
    assert answer.usage() == Usage(5, 2, 0, source="estimated")


@pytest.mark.parametrize(
    "reported",
    [
        {"prompt_tokens": 7, "completion_tokens": -1},
        {"prompt_tokens": -7, "completion_tokens": 2},
        {"prompt_tokens": 7, "completion_tokens": 2**53},
        {"prompt_tokens": 10**30, "completion_tokens": 2},
        {**USAGE, "prompt_tokens_details": {"cached_tokens": -4}},
        {**USAGE, "completion_tokens_details": {"reasoning_tokens": -1}},
    ],
)
def test_a_usage_that_no_answer_has_is_not_believed(reported: dict[str, Any]) -> None:
    """Nobody could be charged for it, and its hold would stay for ever."""
    received, answer = events(
        {**chat({"content": "a"}), "usage": reported},
        {**chat({"content": "b"}, finish_reason="stop"), "usage": reported},
    )
    assert [event.tokens for event in received if isinstance(event, AnyDelta)] == [1, 1]
    assert received[0] == Started(5, 0)
    assert answer.usage() == Usage(5, 2, 0, source="estimated")


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_has_one_of_two_names(field: str) -> None:
    received, answer = events(
        chat({field: "Hm."}),
        chat({"content": "Yes"}, finish_reason="stop"),
        {"choices": [], "usage": {**USAGE, "completion_tokens_details": {"reasoning_tokens": 1}}},
    )
    assert received[1:3] == [
        ReasoningDelta(0, "Hm.", unidentified_tokens=1),
        Delta(0, "Yes", unidentified_tokens=1),
    ]
    assert answer.usage().reasoning_tokens == 1


def test_calls_come_in_pieces_and_end_as_calls_whatever_the_server_says() -> None:
    def piece(**function: str) -> dict[str, Any]:
        return {"index": 0, "function": function}

    received, _ = events(
        chat({"tool_calls": [{**piece(name="now", arguments=""), "id": "call_1"}]}),
        chat({"tool_calls": [piece(arguments="{}")]}),
        chat({}, finish_reason="stop"),
    )
    assert received[1:] == [
        ToolCallDelta(index=0, call_index=0, arguments="", id="call_1", name="now", unidentified_tokens=1),
        ToolCallDelta(index=0, call_index=0, arguments="{}", unidentified_tokens=1),
        Finished(0, "tool_calls"),
    ]


def test_log_probabilities_of_conversations_and_of_texts() -> None:
    expected = [TokenLogprobs(UNKNOWN_TOKEN, b"a", -0.5, [TopLogprob(UNKNOWN_TOKEN, b"b", -1.0)])]
    content = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1.0}]}
    received, _ = events(chat({"content": "a"}, logprobs={"content": [content]}))
    assert received[1] == Delta(0, "a", [], expected, 1)
    lists = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -1.0}]}
    received, _ = events({"choices": [{"index": 0, "text": "a", "logprobs": lists}]})
    assert received[1] == Delta(0, "a", [], expected, 1)


def test_every_choice_ends_once() -> None:
    received, answer = events(
        {"choices": [{"index": 1, "text": "b", "finish_reason": "stop", "stop_reason": "x"}]},
        {"choices": [{"index": 0, "text": "a", "finish_reason": "length"}]},
        {"choices": [{"index": 0, "text": "late", "finish_reason": "stop"}]},
        n=2,
    )
    assert [event for event in received if isinstance(event, Finished)] == [
        Finished(1, "stop", "x"),
        Finished(0, "length"),
    ]
    assert answer.is_finished


def test_an_answer_that_a_content_filter_cut_off_says_so() -> None:
    call = {"index": 0, "id": "1", "function": {"name": "now", "arguments": "{"}}
    for delta in ({"content": "a"}, {"tool_calls": [call]}):
        received, _ = events(chat(delta), chat({}, finish_reason="content_filter"))
        assert received[-1] == Finished(0, "content_filter")


@pytest.mark.parametrize("chunk", [b"{", b"[]", b'{"error": {"message": "CUDA out of memory"}}', b'{"choices": 1}'])
def test_what_is_no_chunk_breaks_the_answer(chunk: bytes) -> None:
    answer = UpstreamAnswer(n=1, prompt_tokens=5)
    with pytest.raises(BrokenAnswer) as caught:
        list(answer.feed([chunk]))
    assert "CUDA" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        *({"token_ids": [number]} for number in (2**31, 10**30, -(10**30))),
        *({"finish_reason": "stop", "stop_reason": number} for number in (2**31, 10**30)),
        *({"logprobs": {"content": [{"token": "a", "logprob": 0, "bytes": [byte]}]}} for byte in (256, -1, 10**30)),
    ],
    ids=str,
)
def test_a_number_that_is_no_token_or_byte_breaks_the_answer(fields: dict[str, Any]) -> None:
    with pytest.raises(BrokenAnswer):
        events(chat({"content": "a"}, **fields))


def test_a_number_that_is_no_token_of_a_prompt_breaks_the_answer() -> None:
    with pytest.raises(BrokenAnswer):
        events({**chat({"content": "a"}), "prompt_token_ids": [10**30]}, reports_prompt=True)


def together(*chunks: dict[str, Any], n: int = 1) -> tuple[list[Event], UpstreamAnswer]:
    answer = UpstreamAnswer(n=n, prompt_tokens=5)
    return list(answer.feed([json.dumps(chunk).encode() for chunk in chunks])), answer


def test_texts_that_arrive_together_are_one_delta_which_counts_all_their_tokens() -> None:
    received, answer = together(
        chat({"role": "assistant", "content": "The"}),
        chat({"content": " capital"}),
        {**chat({"content": " is"}), "usage": {"prompt_tokens": 7, "completion_tokens": 5}},
        chat({"content": " Paris"}),
        chat({}, finish_reason="stop"),
    )
    assert received == [
        Started(5, 0),
        Delta(0, "The", unidentified_tokens=1),
        Delta(0, " capital is Paris", unidentified_tokens=5),
        Finished(0, "stop"),
    ]
    assert answer.is_finished


def test_what_is_not_only_text_stays_in_its_place_among_the_texts() -> None:
    call = {"tool_calls": [{"index": 0, "id": "call-1", "function": {"name": "f", "arguments": "{}"}}]}
    chunks = (
        chat({"content": "a"}),
        chat({"content": "b"}),
        chat({"reasoning_content": "Hm."}),
        chat({"content": "c"}, token_ids=[3]),
        chat({"content": "d"}),
        chat({"content": "e"}),
        chat(call),
        chat({"content": "f"}, finish_reason="stop"),
    )
    received, _ = together(*chunks)
    assert received == [
        Started(5, 0),
        Delta(0, "a", unidentified_tokens=1),
        Delta(0, "b", unidentified_tokens=1),
        ReasoningDelta(0, "Hm.", unidentified_tokens=1),
        Delta(0, "c", [3]),
        Delta(0, "de", unidentified_tokens=2),
        ToolCallDelta(index=0, call_index=0, arguments="{}", id="call-1", name="f", unidentified_tokens=1),
        Delta(0, "f", unidentified_tokens=1),
        Finished(0, "tool_calls"),
    ]


def test_texts_of_different_choices_are_not_mixed() -> None:
    texts = [(0, "a"), (1, "b"), (0, "c"), (0, "d"), (1, "e"), (1, "f")]
    received, _ = together(*({"choices": [{"index": index, "delta": {"content": text}}]} for index, text in texts), n=2)
    deltas = [event for event in received if isinstance(event, Delta)]
    assert [(delta.index, delta.text) for delta in deltas] == [(0, "a"), (1, "b"), (0, "cd"), (1, "ef")]


def test_what_arrived_before_a_broken_chunk_is_delivered() -> None:
    answer = UpstreamAnswer(n=1, prompt_tokens=5)
    chunks = [json.dumps(chat({"content": text})).encode() for text in "abc"]
    received: list[Event] = []
    with pytest.raises(BrokenAnswer):
        received.extend(answer.feed([*chunks, b"{"]))
    assert [event.text for event in received if isinstance(event, Delta)] == ["a", "bc"]
    assert answer.usage().completion_tokens == 3


def test_an_empty_finish_reason_ends_nothing() -> None:
    received, answer = events(
        chat({"content": "Hel"}, finish_reason=""),
        chat({"content": "lo"}, finish_reason=""),
        chat({}, finish_reason="stop"),
    )
    assert "".join(event.text for event in received if isinstance(event, Delta)) == "Hello"
    assert received[-1] == Finished(0, "stop")
    assert answer.is_finished


@pytest.mark.parametrize("reason", ["abort", "error", "insufficient_system_resource"])
def test_an_answer_that_its_server_gave_up_is_broken_and_not_complete(reason: str) -> None:
    answer = UpstreamAnswer(n=1, prompt_tokens=5)
    list(answer.feed([json.dumps(chat({"content": "Hel"})).encode()]))
    with pytest.raises(BrokenAnswer):
        list(answer.feed([json.dumps(chat({}, finish_reason=reason)).encode()]))
    assert not answer.is_finished


NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def test_a_usage_of_nothing_is_no_usage() -> None:
    received, answer = events(
        {**chat({"content": ""}), "usage": NO_USAGE},
        {**chat({"content": "Hel"}), "usage": NO_USAGE},
        {**chat({"content": "lo"}), "usage": NO_USAGE},
        {**chat({}, finish_reason="stop"), "usage": NO_USAGE},
    )
    assert [event.tokens for event in received if isinstance(event, AnyDelta)] == [1, 1]
    assert answer.usage() == Usage(5, 2, 0, source="estimated")


def test_a_usage_of_nothing_does_not_undo_the_one_before() -> None:
    _, answer = events(
        {**chat({"content": "Hello"}, finish_reason="stop"), "usage": USAGE},
        {"choices": [], "usage": NO_USAGE},
    )
    assert answer.usage() == Usage(7, 2, 0, source="upstream")


@pytest.mark.parametrize("prompt_tokens", [0, None])
def test_a_prompt_that_the_upstream_does_not_count_is_not_free(prompt_tokens: int | None) -> None:
    """Ollama counts a prompt that it has in its cache as none, or not at all."""
    _, answer = events(
        chat({"content": "Hello"}, finish_reason="stop"),
        {"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 2}},
    )
    assert answer.usage() == Usage(5, 2, 0, source="upstream")


def test_parts_that_are_more_than_the_whole_are_bounded() -> None:
    for part, bounded in ((None, 0), (9, 7)):
        details = {
            "prompt_tokens_details": {"cached_tokens": part},
            "completion_tokens_details": {"reasoning_tokens": part},
        }
        received, answer = events({**chat({"content": "Hi"}, finish_reason="stop"), "usage": {**USAGE, **details}})
        assert received[0] == Started(7, bounded)
        assert answer.usage() == Usage(7, 2, bounded, min(bounded, 2), source="upstream")


def test_an_answer_starts_before_its_first_token_though_that_has_no_text() -> None:
    received, _ = events(
        {**chat({"role": "assistant", "content": ""}), "usage": {"prompt_tokens": 7, "completion_tokens": 1}},
        chat({"content": "Hi"}, finish_reason="stop"),
    )
    assert received[:2] == [Started(7, 0), Delta(0, "", unidentified_tokens=1)]
    assert received.count(Started(7, 0)) == 1


def test_a_refusal_is_shown_as_the_answers_text() -> None:
    received, _ = events(chat({"content": None, "refusal": "I cannot"}), chat({"refusal": " do that."}))
    assert "".join(event.text for event in received if isinstance(event, Delta)) == "I cannot do that."


@pytest.mark.parametrize(
    "text",
    [b"a\xffb", b"a\xe2\x82b", b"a\\ud83db", b"a\\ude00b", b"a\\ud83d\\n", b"\\ud83d\\ude00\\ud83d", b"\\\\ud83d\xff"],
)
def test_halves_of_characters_are_replaced_and_break_no_answer(text: bytes) -> None:
    answer = UpstreamAnswer(n=1, prompt_tokens=5)
    [_, delta] = answer.feed([b'{"choices":[{"index":0,"delta":{"content":"%b"}}]}' % text])
    assert isinstance(delta, Delta)
    assert "\ufffd" in delta.text
    assert delta.text.encode()
    assert ("\U0001f600" in delta.text) == (b"\\ud83d\\ude00" in text)


def test_no_choices_may_be_written_as_null() -> None:
    received, answer = events(
        chat({"content": "Hi"}, finish_reason="stop"), {"choices": None, "error": None, "usage": USAGE}
    )
    assert received[-1] == Finished(0, "stop")
    assert answer.usage() == Usage(7, 2, 0, source="upstream")


@pytest.mark.parametrize(
    ("usage", "completion", "reasoning"),
    [
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}, 103, 94),
        ({"prompt_tokens": 21, "completion_tokens": 0, "total_tokens": 81}, 60, 60),
        ({"prompt_tokens": 32, "completion_tokens": 103, "total_tokens": 135}, 103, 94),
        ({"prompt_tokens": 32, "completion_tokens": 103, "total_tokens": 999}, 103, 94),
        ({"prompt_tokens": 32, "completion_tokens": 103}, 103, 94),
    ],
)
def test_reasoning_that_the_upstream_counts_beside_the_answer_belongs_to_it(
    usage: dict[str, int], completion: int, reasoning: int
) -> None:
    _, answer = events(
        chat({"content": "Hi"}, finish_reason="stop"),
        {"choices": [], "usage": {**usage, "completion_tokens_details": {"reasoning_tokens": reasoning}}},
    )
    assert answer.usage() == Usage(usage["prompt_tokens"], completion, 0, reasoning, source="upstream")
