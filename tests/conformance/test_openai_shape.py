"""Every chat answer and chunk in OpenAI's shape has the types of its library, and null only where its API has it."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from dragoman.core.events import Delta, Event, Finished, Usage
from tests.support.dialects.answer_events import answer_events
from tests.support.dialects.cases import DIALECT_CASES, ChatDialectCase, build_response, stream_documents

every_chat = pytest.mark.parametrize(
    "case", [case for case in DIALECT_CASES if isinstance(case, ChatDialectCase)], ids=lambda case: case.name
)
PLAIN_ANSWER: list[Event] = [Delta(0, "Hello", [1]), Finished(0, "stop"), Usage(1, 1, 0)]
NOTHING_ASKED = {"logprobs": None, "top_logprobs": None}
NULLABLE = {"content", "refusal", "logprobs", "finish_reason"}
"""Members that are null in OpenAI's API too."""

NULLABLE_ELSEWHERE = {"stop_reason"}
"""Members that OpenAI's API does not have, and that vLLM has as null."""


def null_members(document: Any) -> Iterator[str]:
    """Return the names of all members that are null, at any depth."""
    if isinstance(document, dict):
        for name, value in document.items():
            if value is None:
                yield name
            yield from null_members(value)
    elif isinstance(document, list):
        for item in document:
            yield from null_members(item)


@every_chat
@given(data=st.data())
def test_openais_library_accepts_every_answer_and_chunk_with_strict_types(
    case: ChatDialectCase, data: st.DataObject
) -> None:
    events = data.draw(answer_events(case))
    answer = build_response(case.decode().builder, events)
    chunks = stream_documents(case.decode(stream=True, stream_options={"include_usage": True}).builder, events)
    ChatCompletion.model_validate(answer, strict=True)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert set(null_members([answer, chunks])) <= NULLABLE | NULLABLE_ELSEWHERE


@every_chat
def test_a_plain_answer_has_every_member_that_openais_schema_requires(case: ChatDialectCase) -> None:
    [choice] = build_response(case.decode(**NOTHING_ASKED).builder, PLAIN_ANSWER)["choices"]
    assert (choice["logprobs"], choice["finish_reason"]) == (None, "stop")
    message = choice["message"]
    assert (message["role"], message["content"], message["refusal"], message["annotations"]) == (
        "assistant",
        "Hello",
        None,
        [],
    )
    assert "tool_calls" not in message
    assert "function_call" not in message
