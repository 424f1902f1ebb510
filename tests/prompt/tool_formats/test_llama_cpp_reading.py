"""llama.cpp reads calls, text and reasoning from answers as dragoman does, by its own analysis of the template.

Its server needs a model and a process of its own, which writes the answers of all templates of a test. All templates of
open models are compared by tools.parser_tables, with the differences and their reasons.
"""

from collections.abc import Mapping
from pathlib import Path

from dragoman.prompt.tool_formats.format import tool_fields
from tests.support.chat_templates import HERMES, QWEN3_CODER, open_model_template, requires_open_models
from tests.support.processes.llama_reader import Reading, Script, read_with_llama_cpp
from tests.support.written_answers import TOOLS, WrittenAnswers

SAMPLE = ("LFM2.5-8B-A1B", "google-gemma-4-31B-it", "openai-gpt-oss-120b")
"""Calls in Python's syntax, in Gemma's, and in channels."""


def assert_equal_reading(sources: Mapping[str, str], folder: Path) -> None:
    models = {name: WrittenAnswers(source) for name, source in sources.items()}
    answers = {name: model.write(generated=1) for name, model in models.items()}
    scripts = [Script(sources[name], models[name].variables, tuple(answers[name].values())) for name in sources]
    tools = [tool_fields(tool) for tool in TOOLS.tools]
    for name, readings in zip(sources, read_with_llama_cpp(scripts, tools, folder), strict=True):
        for (kind, text), reading in zip(answers[name].items(), readings, strict=True):
            assert reading == Reading(models[name].read(text)), f"{name}: {kind}: {text}"


def test_answers_are_read_as_llama_cpp_reads_them(tmp_path: Path) -> None:
    assert_equal_reading({"hermes": HERMES, "qwen3_coder": QWEN3_CODER}, tmp_path)


@requires_open_models
def test_answers_of_open_models_are_read_as_llama_cpp_reads_them(tmp_path: Path) -> None:
    assert_equal_reading({model: open_model_template(model) for model in SAMPLE}, tmp_path)


def test_what_llama_cpp_reads_in_another_way_or_does_not_allow_differs(tmp_path: Path) -> None:
    unknown = '<tool_call>\n{"name": "get_rain", "arguments": {}}\n</tool_call>'
    other = '<tool_call>\n{"name": "get_time", "arguments": {"a": 1}}\n</tool_call>'
    script = Script(HERMES, {}, (unknown, other, "Hi"))
    [readings] = read_with_llama_cpp([script], [tool_fields(tool) for tool in TOOLS.tools], tmp_path)
    read = WrittenAnswers(HERMES).read
    assert [reading == Reading(read(text)) for text, reading in zip(script.answers, readings, strict=True)] == [
        False,
        False,
        True,
    ]
