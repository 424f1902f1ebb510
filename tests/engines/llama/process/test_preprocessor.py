"""From a command to the batcher's request, with the bundled model's vocabulary: it has tokens longer than a byte."""

import msgspec
import pytest

from dragoman.core.errors import BadRequest, ContextOverflow
from dragoman.core.request import PromptTruncation, SamplingParams, TextPrompt, TokenPrompt, Tool, ToolOptions
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.process.preprocessor import RequestPreprocessor
from dragoman.engines.llama.wire.messages import GenerateCommand
from dragoman.output.marked_text_parser import TextMarkers
from dragoman.prompt.output_parser import OutputParserSpec
from tests.support.output_parts import parse, tool_call_parts

TEXT = "One two three four five six seven eight nine ten"
CONTEXT_LENGTH = 64


@pytest.fixture
def preprocessor(model: Model) -> RequestPreprocessor:
    return RequestPreprocessor(model, CONTEXT_LENGTH)


def command(prompt: TextPrompt | TokenPrompt, sampling: SamplingParams | None = None) -> GenerateCommand:
    return GenerateCommand(number=0, prompt=prompt, sampling=sampling or SamplingParams(), n=1, echo=True, priority=0)


def test_a_prompt_is_truncated_by_tokens_and_so_is_its_text(model: Model, preprocessor: RequestPreprocessor) -> None:
    tokens = model.vocabulary.tokenize(TEXT).tolist()
    for truncation, kept in (
        (PromptTruncation(4), tokens[-4:]),
        (PromptTruncation(4, side="right"), tokens[:4]),
    ):
        for prompt in (TextPrompt(TEXT, truncation), TokenPrompt(tuple(tokens), truncation)):
            request = preprocessor.preprocess((0, 0), command(prompt))
            assert request.prompt.tolist() == kept
            assert request.echo == b"".join(map(model.vocabulary.piece, kept)).decode()


def test_a_prompt_that_fits_is_not_changed(model: Model, preprocessor: RequestPreprocessor) -> None:
    for truncation in (PromptTruncation(CONTEXT_LENGTH), PromptTruncation()):
        tokens, text = preprocessor.tokenize_prompt(TextPrompt(TEXT, truncation))
        assert (tokens.tolist(), text) == (model.vocabulary.tokenize(TEXT).tolist(), TEXT)


def test_a_prompt_truncated_to_the_context_leaves_room_for_its_answer(preprocessor: RequestPreprocessor) -> None:
    prompt = TextPrompt(f"{TEXT} " * 20, PromptTruncation(answer_tokens=10))
    request = preprocessor.preprocess((0, 0), command(prompt, SamplingParams(max_tokens=10)))
    assert (len(request.prompt), request.max_tokens) == (CONTEXT_LENGTH - 10, 10)


def test_a_prompt_too_long_to_be_tokenized_is_refused_although_it_is_to_be_truncated(
    preprocessor: RequestPreprocessor,
) -> None:
    with pytest.raises(ContextOverflow):
        preprocessor.tokenize_prompt(TextPrompt(TEXT * 10_000, PromptTruncation(4)))


def test_allowed_tokens_are_those_of_the_vocabulary(model: Model, preprocessor: RequestPreprocessor) -> None:
    sampling = SamplingParams(allowed_token_ids=(0, model.vocabulary.size))
    with pytest.raises(BadRequest, match="allowed_token_ids must hold token ids from 0") as caught:
        preprocessor.preprocess((0, 0), command(TextPrompt(TEXT), sampling))
    assert caught.value.parameter == "allowed_token_ids"


@pytest.mark.parametrize(("kind", "arguments"), [("string", '{"a": "12"}'), ("integer", '{"a": 12}')])
def test_tagged_arguments_are_parsed_as_what_the_schema_says(
    kind: str, arguments: str, preprocessor: RequestPreprocessor
) -> None:
    tool = Tool("f", parameters={"properties": {"a": {"type": kind}}})
    asked = msgspec.structs.replace(
        command(TextPrompt("Well?")), tools=ToolOptions((tool,)), output_format=OutputParserSpec("qwen3_coder")
    )
    parser = preprocessor.preprocess((0, 0), asked).output_format.new_parser()
    assert parser is not None
    answer = "<tool_call>\n<function=f>\n<parameter=a>\n12\n</parameter>\n</function>\n</tool_call>"
    assert parse(parser, *answer) == tool_call_parts(0, "f", arguments)


def test_markers_around_text_that_are_special_tokens_reach_the_parser(
    model: Model, preprocessor: RequestPreprocessor
) -> None:
    markers = TextMarkers("<|im_start|>", "<|im_end|>")
    asked = msgspec.structs.replace(command(TextPrompt("Well?")), output_format=OutputParserSpec(text_markers=markers))
    tokens = {model.vocabulary.special_token(text) for text in (markers.opening, markers.closing)}
    assert preprocessor.preprocess((0, 0), asked).output_format.markup_token_ids == tokens
