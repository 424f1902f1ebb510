"""llama.cpp's own reading of answers: its server, with a model that writes them.

Started as `python -m tests.support.processes.llama_reader` with a Job on its standard input. A process of its own,
because the threads of the server do not end, and because llama.cpp ends the process on a failed assertion.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.support.answers import ReadAnswer, read_answer
from tests.support.scripted_model import START_BIAS, write_scripted_model
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

_CONTEXT_CELLS = 2**14
_SILENT = -1
_PROJECT = Path(__file__).parents[3]


class Script(msgspec.Struct, frozen=True):
    """Answers of a model with this chat template."""

    template: str
    variables: dict[str, Any]
    """Of the template, beside those that every template gets."""
    answers: tuple[str, ...]


class Reading(msgspec.Struct, frozen=True):
    """What llama.cpp made of an answer."""

    answer: ReadAnswer | None = None
    failure: str = ""
    """Why there is none."""
    is_whole: bool = True
    """Whether the model wrote the whole answer. Otherwise the grammar for calls did not allow it."""


class _Job(msgspec.Struct, frozen=True):
    model: str
    tools: list[dict[str, Any]]
    scripts: tuple[Script, ...]
    first_tokens: dict[str, int]
    """By the answer."""


def read_with_llama_cpp(
    scripts: Sequence[Script], tools: list[dict[str, Any]], folder: Path
) -> tuple[tuple[Reading, ...], ...]:
    """Return the readings of each script's answers to a request with these tools. `folder` is for the model."""
    model = folder / "scripted.gguf"
    answers = sorted({answer for script in scripts for answer in script.answers})
    first_tokens = dict(zip(answers, write_scripted_model(model, answers), strict=True))
    job = _Job(str(model), tools, tuple(scripts), first_tokens)
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.processes.llama_reader"],
        input=msgspec.json.encode(job),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=_PROJECT,
        timeout=TEST_TIMEOUT_SECONDS,
        check=True,
    )
    return msgspec.json.decode(process.stdout.splitlines()[-1], type=tuple[tuple[Reading, ...], ...])


def _read_all(job: _Job) -> list[list[Reading]]:
    import xllamacpp

    readings = []
    for script in job.scripts:
        params = xllamacpp.CommonParams()
        params.model.path = job.model
        params.n_ctx = _CONTEXT_CELLS
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.warmup = False
        params.verbosity = _SILENT
        params.use_jinja = True
        params.chat_template = script.template
        try:
            server = xllamacpp.Server(params)
        except RuntimeError as error:
            readings.append([Reading(failure=str(error))] * len(script.answers))
            continue
        ask = functools.partial(_read, server, job.tools, script.variables)
        readings.append([ask(answer, job.first_tokens[answer]) for answer in script.answers])
    return readings


def _read(server: Any, tools: list[dict[str, Any]], variables: dict[str, Any], text: str, first_token: int) -> Reading:
    length = len(text.encode()) + 1
    request = {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": tools,
        "parallel_tool_calls": True,
        "chat_template_kwargs": variables,
        "temperature": 0,
        "logit_bias": [[first_token, START_BIAS]],
        "max_tokens": length,
    }
    try:
        answer = server.handle_chat_completions(request)
    except RuntimeError as error:  # which xllamacpp raises for the server's errors
        return Reading(failure=str(error))
    if "error" in answer:
        return Reading(failure=str(answer["error"]["message"]))
    [choice] = answer["choices"]
    message = choice["message"]
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()]
    return Reading(
        read_answer(message.get("content") or "", message.get("reasoning_content") or "", calls),
        is_whole=choice["finish_reason"] != "length" and answer["usage"]["completion_tokens"] == length,
    )


def main() -> None:
    """Print the readings."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=_Job)
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(_read_all(job)) + b"\n")
    sys.stdout.flush()
    os._exit(0)  # The server's threads would prevent the interpreter from ending.


if __name__ == "__main__":
    main()
