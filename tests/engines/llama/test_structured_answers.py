"""Constrained answers of the real model, from a client's JSON to the answer's JSON."""

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dragoman.core.events import Delta, Event, Finished, Usage
from dragoman.core.request import ChatPrompt, GenerationRequest, TextPrompt, Tool
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.wire.messages import GenerateCommand
from dragoman.prompt.chatml import CHATML
from dragoman.prompt.template import ChatTemplate
from tests.support import schemas
from tests.support.chat_templates import GEMMA4, LFM2, MINIMAX_M3, QWEN3_CODER
from tests.support.dialects.cases import Arcee, AssembledChoice, InfermaticChat, build_response, stream_documents
from tests.support.grammars import validation_errors
from tests.support.in_process_engine import InProcessEngine
from tests.support.models import THREADS

BATCH_SIZE = 20
"""Requests answered together, so that one test uses the whole batch."""

CONVERSATIONS_PER_TOOL_SET = 5
"""Conversations of a batch with the same tools."""

TEMPLATE = ChatTemplate(CHATML, bos="", eos="")

SLOW = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


def generate(engine: InProcessEngine, calls: Sequence[DecodedRequest], max_tokens: int) -> list[list[Event]]:
    """The events of each request, all answered together. Raises BadRequest."""
    return engine.generate([command(number, call.requests[0], max_tokens) for number, call in enumerate(calls)])


def command(
    number: int, request: GenerationRequest, max_tokens: int, template: ChatTemplate = TEMPLATE
) -> GenerateCommand:
    assert isinstance(request.prompt, ChatPrompt)
    rendered = template.render(request.prompt)
    sampling = request.sampling
    return GenerateCommand(
        number=number,
        prompt=TextPrompt(rendered.text),
        sampling=type(sampling)(
            temperature=sampling.temperature, max_tokens=max_tokens, logit_bias=sampling.logit_bias
        ),
        n=request.n,
        echo=False,
        priority=0,
        response_format=request.response_format,
        tools=request.prompt.tools,
        output_format=rendered.parser_spec,
    )


def can_write(model: Model, schema: schemas.Schema) -> bool:
    """Whether all text of a schema has tokens: the vocabulary lacks some bytes of planes that are not in use."""
    text = json.dumps(schema, ensure_ascii=False).encode()
    vocabulary = model.vocabulary
    return b"".join(map(vocabulary.piece, vocabulary.tokenize_plain(text))) == text


@pytest.fixture(scope="module")
def engine(one_layer_model: Model) -> Iterator[InProcessEngine]:
    options = ContextOptions(16384, 512, threads=THREADS)
    engine = InProcessEngine(one_layer_model, options, max_sequences=BATCH_SIZE, host_cache_tokens=4096)
    yield engine
    engine.close()


def test_100_answers_at_temperature_1_5_to_random_schemas_are_all_valid(engine: InProcessEngine, model: Model) -> None:
    finished = 0
    writable = schemas.json_schemas().filter(functools.partial(can_write, model))

    @settings(SLOW, max_examples=12)  # Answers that are cut by their limit do not count.
    @given(st.lists(writable, min_size=BATCH_SIZE, max_size=BATCH_SIZE))
    def answer(batch: list[schemas.Schema]) -> None:
        nonlocal finished
        if finished >= 100:
            return
        calls = [_call_for_schema(schema) for schema in batch]
        answers = generate(engine, calls, 48)
        for schema, events in zip(batch, answers, strict=True):
            text = "".join(event.text for event in events if isinstance(event, Delta))
            [reason] = [event.reason for event in events if isinstance(event, Finished)]
            if reason == "stop":
                finished += 1
                assert validation_errors(text, schema) == []

    answer()
    assert finished >= 100


def _call_for_schema(schema: schemas.Schema) -> DecodedRequest:
    response_format = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}
    return Arcee().decode(response_format=response_format, temperature=1.5)


@st.composite
def _conversations(draw: st.DrawFn, model: Model) -> list[dict[str, Any]]:
    """Draw conversations in groups with the same tools, so that most of their prompts is computed once."""
    writable = schemas.tools().filter(lambda tool: can_write(model, tool.parameters or {}))
    lists = st.lists(writable, min_size=1, max_size=3, unique_by=lambda tool: tool.name)
    groups = [draw(lists) for _ in range(BATCH_SIZE // CONVERSATIONS_PER_TOOL_SET)]
    return [draw(_conversation(tools)) for tools in groups for _ in range(CONVERSATIONS_PER_TOOL_SET)]


@st.composite
def _conversation(draw: st.DrawFn, tools: Sequence[Tool]) -> dict[str, Any]:
    functions = [
        {"name": tool.name, "parameters": tool.parameters, "strict": True}
        if tool.parameters is not None
        else {"name": tool.name}
        for tool in tools
    ]
    named = {"type": "function", "function": {"name": draw(st.sampled_from([tool.name for tool in tools]))}}
    return {
        "messages": [{"role": "user", "content": draw(st.sampled_from(["Hi", "Use a tool.", "What time is it?"]))}],
        "tools": [{"type": "function", "function": function} for function in functions],
        "tool_choice": draw(st.sampled_from(["none", "auto", "required", named])),
        "parallel_tool_calls": draw(st.booleans()),
        "temperature": draw(st.sampled_from([0.0, 1.0])),
    }


def test_80_conversations_call_only_allowed_tools_with_valid_arguments(
    engine: InProcessEngine, one_layer_model: Model
) -> None:
    # Lets a small model begin a call now and then.
    tempting = {str(token): 8.0 for token in one_layer_model.vocabulary.tokenize_plain(b"<tool_call>")}
    calls_made = 0

    @settings(SLOW, max_examples=4)
    @given(_conversations(one_layer_model))
    def converse(conversations: list[dict[str, Any]]) -> None:
        nonlocal calls_made
        client = InfermaticChat()
        for conversation in conversations:
            if conversation["tool_choice"] == "auto":
                conversation["logit_bias"] = tempting
        decoded = [client.decode(**conversation) for conversation in conversations]
        answers = generate(engine, decoded, 64)
        for conversation, call, events in zip(conversations, decoded, answers, strict=True):
            [whole] = client.read(build_response(call.builder, events))
            assert client.read_stream(stream_documents(client.decode(**conversation, stream=True).builder, events)) == [
                whole
            ]
            calls_made += _check(conversation, whole)

    converse()
    assert calls_made >= 8


def _check(conversation: dict[str, Any], whole: AssembledChoice) -> int:
    """Check an answer against its request, and return the number of its complete calls."""
    parameters = {tool["function"]["name"]: tool["function"].get("parameters") for tool in conversation["tools"]}
    calls = whole.tool_calls or []
    complete = calls if whole.finish_reason == "tool_calls" else calls[:-1]
    for _, name, arguments in complete:
        assert validation_errors(arguments, parameters[name] or {"type": "object", "additionalProperties": False}) == []
    assert whole.finish_reason != "stop" or not calls
    choice = conversation["tool_choice"]
    if choice == "none":
        assert not calls
    elif choice != "auto":
        assert whole.text == ""
        assert whole.finish_reason in ("tool_calls", "length")
    if isinstance(choice, dict):
        assert {name for _, name, _ in calls} <= {choice["function"]["name"]}
    if isinstance(choice, dict) or (not conversation["parallel_tool_calls"] and choice != "auto"):
        assert len(calls) <= 1
    return len(complete)


@pytest.mark.parametrize("source", [QWEN3_CODER, LFM2, GEMMA4, MINIMAX_M3])
def test_arguments_that_are_no_json_are_sent_as_json_that_is_valid_under_their_schema(
    engine: InProcessEngine, source: str
) -> None:
    short = {"type": "string", "maxLength": 8}
    schema = {
        "type": "object",
        "properties": {
            "city": short,
            "days": {"type": "integer", "minimum": 0, "maximum": 31},
            "note": {"anyOf": [short, {"type": "null"}]},
        },
        "required": ["city", "days", "note"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": schema}}
    conversation: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Is it going to rain?"}],
        "tools": [tool],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 1.5,
        "reasoning_effort": "none",
    }
    client, template = InfermaticChat(), ChatTemplate(source, bos="", eos="")
    decoded = [client.decode(**conversation) for _ in range(BATCH_SIZE)]
    commands = [command(number, call.requests[0], 160, template) for number, call in enumerate(decoded)]
    complete = 0
    for call, events in zip(decoded, engine.generate(commands), strict=True):
        [whole] = client.read(build_response(call.builder, events))
        streamed = client.read_stream(stream_documents(client.decode(**conversation, stream=True).builder, events))
        assert streamed == [whole]
        complete += _check(conversation, whole)
    assert complete >= BATCH_SIZE // 2


def test_json_object_format_holds_whatever_the_prompt_asks(engine: InProcessEngine) -> None:
    calls = [Arcee().decode(response_format={"type": "json_object"}, temperature=1.5) for _ in range(BATCH_SIZE)]
    for events in generate(engine, calls, 40):
        text = "".join(event.text for event in events if isinstance(event, Delta))
        assert text.startswith("{")
        if [event.reason for event in events if isinstance(event, Finished)] == ["stop"]:
            assert isinstance(json.loads(text), dict)
        assert isinstance(events[-1], Usage)
