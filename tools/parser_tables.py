"""Generates the table of docs/add-a-tool-format.md: whether llama.cpp reads answers of open models as dragoman does.

.venv/bin/python -m tools.parser_tables           # writes it, in some minutes
.venv/bin/python -m tools.parser_tables --check   # fails if it is not up to date

It needs the templates of open models beside the project. A difference without a reason in DIFFERENCES is an error, as
is a reason without a difference.
"""

import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from dragoman.output.markup import ToolFormatName
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import tool_fields
from tests.support.chat_templates import OPEN_MODELS, open_model_template
from tests.support.processes.llama_reader import Reading, Script, read_with_llama_cpp
from tests.support.written_answers import TOOLS, WrittenAnswers
from tools.generated import replace_part, write_or_check

DOCUMENT = Path(__file__).parent.parent / "docs" / "add-a-tool-format.md"
BEGIN = "<!-- made by tools/parser_tables.py from here -->"
END = "<!-- to here -->"

_GENERATED = 3
"""Random calls under the grammar, for each template."""

_REASONS: dict[str, tuple[str, ...]] = {
    "one call is allowed in an answer": (
        "MiniMax-M1",
        "MiniMax-M2",
        "meta-llama-Llama-3.1-8B-Instruct",
        "meta-llama-Llama-3.2-3B-Instruct",
        "meta-llama-Llama-3.3-70B-Instruct",
        "tool_chat_template_llama3.1_json",
    ),
    "reasoning is content": (
        "Apertus-8B-Instruct",
        "LFM2.5-Instruct",
        "tool_chat_template_apertus",
        "tool_chat_template_hunyuan_a13b",
        "unsloth-Apriel-1.5",
    ),
    "the line with which the prompt opens the reasoning is part of it": ("Apriel-1.6-15b-Thinker-fixed",),
    "an answer is text or calls": ("Cohere2MoE", "CohereForAI-c4ai-command-r7b-12-2024-tool_use"),
    "an id must follow the arguments, as in earlier calls": (
        "mistralai-Mistral-Nemo-Instruct-2407",
        "tool_chat_template_mistral3",
    ),
    "`[ARGS]` must stand before `[CALL_ID]`, unlike in earlier calls": ("Mistral-Small-3.2-24B-Instruct-2506",),
    "text and reasoning are read with their markup, and every call must have the id of a probe": (
        "upstage-Solar-Open-100B",
    ),
    "calls are content": (
        "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
        "tool_chat_template_glm4",
        "tool_chat_template_llama3.2_json",
        "tool_chat_template_llama4_json",
    ),
    "calls, and what stands around a text, are content": ("ibm-granite-granite-3.3-2B-Instruct",),
    "reasoning and calls are content": ("tool_chat_template_deepseekv31",),
    "a call behind a text or another call is refused": ("meetkai-functionary-medium-v3.2",),
    "calls are refused": ("tool_chat_template_xlam_llama", "tool_chat_template_xlam_qwen"),
    "every answer is refused": (
        "tool_chat_template_functiongemma",
        "tool_chat_template_llama3.2_pythonic",
        "tool_chat_template_llama4_pythonic",
        "tool_chat_template_toolace",
    ),
    "the server does not start": (
        "CohereForAI-c4ai-command-r-plus-tool_use",
        "tool_chat_template_gemma3_pythonic",
        "tool_chat_template_mistral",
        "tool_chat_template_mistral_parallel",
        "tool_chat_template_phi4_mini",
    ),
}
"""What llama.cpp does → with which templates."""

DIFFERENCES = {template: reason for reason, templates in _REASONS.items() for template in templates}


def differing_answers(model: WrittenAnswers, source: str) -> list[str]:
    """Return the kinds of answers that llama.cpp reads in another way, does not read, or does not allow."""
    answers = model.write(_GENERATED)
    script = Script(source, model.variables, tuple(answers.values()))
    tools = [tool_fields(tool) for tool in TOOLS.tools]
    with tempfile.TemporaryDirectory() as folder:
        try:
            [readings] = read_with_llama_cpp([script], tools, Path(folder))
        except subprocess.CalledProcessError:
            return list(answers)
    pairs = zip(answers.items(), readings, strict=True)
    return [kind for (kind, text), reading in pairs if reading != Reading(model.read(text))]


def _compare() -> dict[ToolFormatName, dict[str, list[str]]]:
    """Return the differing answers of each template, by its format."""
    compared: dict[ToolFormatName, dict[str, list[str]]] = defaultdict(dict)
    for path in sorted(OPEN_MODELS.glob("*.jinja")):
        source = open_model_template(path.stem)
        model = WrittenAnswers(source)
        if model.template.tool_format != "generic":
            kinds = compared[model.template.tool_format][path.stem] = differing_answers(model, source)
            print(f"{path.stem}: {', '.join(kinds) or 'equal'}", file=sys.stderr)
    return compared


def _rows(compared: dict[ToolFormatName, dict[str, list[str]]]) -> Iterator[str]:
    yield "| format | read equally | differs |"
    yield "|---|---|---|"
    for name in FORMATS:
        if templates := compared.get(name):
            equal = [model for model, kinds in templates.items() if not kinds]
            reasons = (f"{model}: {DIFFERENCES[model]}" for model, kinds in templates.items() if kinds)
            yield f"| `{name}` | {', '.join(equal)} | {'; '.join(reasons)} |"


def updated(document: str) -> str:
    """Return the document with a current table between its marks. Raises ValueError for a difference without reason."""
    compared = _compare()
    differing = {model for templates in compared.values() for model, kinds in templates.items() if kinds}
    if differing != DIFFERENCES.keys():
        raise ValueError(f"not in DIFFERENCES, or in it without a difference: {differing ^ DIFFERENCES.keys()}")
    return replace_part(document, BEGIN, END, "\n".join([*_rows(compared), ""]))


if __name__ == "__main__":
    sys.exit(write_or_check(DOCUMENT, updated, "tools.parser_tables"))
