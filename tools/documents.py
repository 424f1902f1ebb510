"""Checks that what the documents show can be run, and that what they name exists.

.venv/bin/python -m tools.documents    # prints every mistake, and fails if there is one

- command: each `dragoman …` of a code block is parsed by the command line itself. Of those within a text, commands and
  options must exist; so must the modules of `python -m` and the targets of `make`.
- settings: each block of TOML is a settings file that a server would start with.
- name: each name in backticks with an underscore stands somewhere in the project's files; so does each path of a file.
  A setting's name before `=` is a setting, a `dragoman_…` a metric, a `DRAGOMAN_…` a variable.
- route: `GET /v1/models`, and what a curl of a code block asks for, is a route.
- default: a number in parentheses behind a setting, as in `wait_seconds` (120), is its default.

The changelog is about earlier versions too: its names are not checked. Nor are generated parts.
"""

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import typer
from typer.exceptions import TyperException

from dragoman.cli.main import app
from dragoman.server import health, metrics, openapi
from dragoman.server.admin.route_table import ADMIN_ROUTES
from dragoman.server.dialects import DIALECTS
from dragoman.server.settings_loading import SettingsError, load_settings
from dragoman.server.start_checks import StartupError, check_settings
from tools.configuration_tables import tables
from tools.links import documents
from tools.metrics_tables import exported_name, registry

ROOT = Path(__file__).parent.parent

OTHERS_NAMES = frozenset(
    {
        *("env_key", "model_providers"),  # Codex
        *("api_base_url", "async_client", "is_chat_model", "is_function_calling_model", "model_settings"),  # frameworks
        "OPENAI_API_BASE",  # aider
        *("check_embedding_ctx_length", "sys_platform", "namespace__name", "context_window_fallbacks"),
        *("OTEL_BSP_SCHEDULE_DELAY", "OTEL_EXPORTER_OTLP_HEADERS", "CLAUDE_CODE_AUTO_COMPACT_WINDOW"),
        *("malloc_trim", "set_asyncgen_hooks", "tool_chat_template_granite"),
    }
)
"""Names of other programs that stand in no file of the project."""

OTHERS_OPTIONS = frozenset(
    {
        *("--tool-call-parser", "--enable-auto-tool-choice", "--enable-prompt-tokens-details"),  # vLLM
        *("--enable-metrics", "--metrics"),  # SGLang, llama-server
        *("--read-only", "--tmpfs", "--time", "--profile"),  # Docker
        *("--override", "--from", "--no-deps", "--constraint"),  # uv, pip
    }
)
"""The same of options."""

SHELL = ("", "sh")
FOREIGN_TOML = "[model_providers."
"""What a block for another program has in it."""

_BLOCK = re.compile(r"^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_GENERATED = re.compile(r"<!-- made by .*?<!-- to here -->", re.DOTALL)
_CODE = re.compile(r"(?<!`)(`+)(?!`)(?P<text>.+?)(?<!`)\1(?!`)", re.DOTALL)
_CALL = re.compile(r"(?:^|(?<=[\s(\"']))(?P<path>[\w./]*bin/)?dragoman +(?=(?P<arguments>[^|&>)#\n]*))", re.MULTILINE)
_SEVERAL = re.compile(r"(?P<group>[a-z]+) (?P<commands>[a-z-]+(\|[a-z-]+)+)")
_PLACEHOLDER = re.compile(r"[A-Z]{2,}")
_MODULE = re.compile(r"python -m ((?:tools|benchmarks)\.\w+)")
_TARGET = re.compile(r"make ([a-z][a-z-]*)")
_NAME = re.compile(r"(?<![\w.…-])[A-Za-z][A-Za-z0-9]*(?:_+[A-Za-z0-9]+)+(?![\w…*])")
_ASSIGNED = re.compile(r"([a-z][a-z0-9_]*) = (?:[\"'\[{\d].*|true|false)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_ROUTE = re.compile(r"(?:GET|POST|PUT|PATCH|DELETE|HEAD) (/[\w/{}.:-]+)")
_ASKED = re.compile(r"\bcurl .*?http://127\.0\.0\.1:8000(/[\w/{}.:-]+)(?=[\s'\"?]|$)", re.MULTILINE)
_DEFAULT = re.compile(r"`(?:[a-z_]+\.)*(?P<name>[a-z_]+)`\s+\((?P<number>[\d.,]+)(?: seconds| by default)?\)")
_PATH = re.compile(r"[\w./-]+\.(?:py|toml|yaml|yml|conf)")
_SOURCE = re.compile(
    r"\.(py|toml|ya?ml|json|conf|service|socket|js|html|txt|in)$|^(Makefile|Dockerfile|Caddyfile|run)$"
)


class Mistake(NamedTuple):
    """One place of a document that is not true."""

    document: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.message}"


class Passage(NamedTuple):
    """A code block, or a code within a text."""

    language: str | None
    """None: it is within a text."""
    text: str
    line: int


def find_mistakes(root: Path) -> Iterator[Mistake]:
    """Yield what is not true in the Markdown files below `root`."""
    for path in documents(root):
        name = path.relative_to(root)
        text = path.read_text(encoding="utf-8")
        for passage in passages(text):
            for message in _problems(name, passage):
                yield Mistake(name, passage.line, message)
        yield from (Mistake(name, line, message) for line, message in wrong_defaults(text))


def passages(document: str) -> Iterator[Passage]:
    """Yield the code of a document that people have written, with its line."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    document = _GENERATED.sub(blank, document)
    for match in _BLOCK.finditer(document):
        yield Passage(match["language"], match["text"], document.count("\n", 0, match.start()) + 2)
    prose = _BLOCK.sub(blank, document)
    for match in _CODE.finditer(prose):
        yield Passage(None, " ".join(match["text"].split()), prose.count("\n", 0, match.start()) + 1)


def _problems(document: Path, passage: Passage) -> Iterator[str]:
    if passage.language in (None, *SHELL):
        yield from wrong_commands(passage.text, is_complete=passage.language is not None)
    named = _ROUTE if passage.language is None else _ASKED
    for path in named.findall(passage.text):
        if not any(route.fullmatch(path) for route in _routes()):
            yield f"there is no route {path}"
    if passage.language == "toml" and FOREIGN_TOML not in passage.text:
        yield from wrong_settings(passage.text)
    if passage.language is None and document.name != "CHANGELOG.md":
        yield from unknown_names(passage.text)


def wrong_commands(text: str, *, is_complete: bool) -> Iterator[str]:
    """Yield the commands that do not exist. Those that are not complete may lack arguments."""
    text = text.replace("\\\n", " ")
    for match in _CALL.finditer(text):
        words = [word for word in _words(match["arguments"]) if "…" not in word]
        begins = match["path"] or text[: match.start()].endswith(("\n", "(")) or match.start() == 0
        if words and (words[0] in _commands() or begins):
            yield from _wrong_call(words, is_complete=is_complete)
    if not is_complete and (several := _SEVERAL.fullmatch(text)) and several["group"] in _commands():
        for command in several["commands"].split("|"):
            yield from _wrong_call([several["group"], command], is_complete=False)
    for module in _MODULE.findall(text):
        if not (ROOT / module.replace(".", "/")).with_suffix(".py").exists():
            yield f"there is no module {module}"
    if text.startswith("make ") and (target := _TARGET.match(text)) and target[1] not in _targets():
        yield f"there is no target make {target[1]}"


def wrong_settings(text: str) -> Iterator[str]:
    """Yield why a server would not start with these settings."""
    environment = dict.fromkeys(re.findall(r'"env:(\w+)"', text), "whsec_" + 40 * "A")
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            check_settings(load_settings(Path(file.name), environment, {}))
        except (SettingsError, StartupError) as error:
            yield f"settings: {str(error).replace(file.name + ': ', '')}"


def unknown_names(text: str) -> Iterator[str]:
    """Yield the names in a code within a text that nothing has."""
    if text.startswith(("http://", "https://")):
        return
    assigned = _ASSIGNED.fullmatch(text)
    if assigned and assigned[1] not in _settings() | OTHERS_NAMES:
        yield f"there is no setting {assigned[1]}"
    for path in _PATH.findall(text):
        if "/" in path and not path.startswith(("/", "~")) and not any(file.endswith(f"/{path}") for file in _files()):
            yield f"there is no file {path}"
    for option in _OPTION.findall(text):
        if option not in _options() | OTHERS_OPTIONS:
            yield f"nothing has the option {option}"
    for name in _NAME.findall(text):
        if name.startswith("dragoman_"):
            if name not in _metrics():
                yield f"there is no metric {name}"
        elif not any(known in _known_names() for known in (name, name.removesuffix("_FILE"))):
            yield f"nothing is called {name}"


def wrong_defaults(document: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the correction of each number that is said to be a setting's default and is not."""
    for match in _DEFAULT.finditer(document):
        defaults = _defaults().get(match["name"])
        if defaults is not None and float(match["number"].replace(",", "")) not in defaults:
            known = " or ".join(map(str, sorted(defaults, key=str)))
            yield document.count("\n", 0, match.start()) + 1, f"the default of {match['name']} is {known}"


def _wrong_call(words: list[str], *, is_complete: bool) -> Iterator[str]:
    called = f"dragoman {' '.join(words)}"
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        name, *words = words
        if name not in command.commands:
            yield f"{called}: there is no command {name}"
            return
        command = command.commands[name]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    options |= {"--help"}
    for word in words:
        if word.startswith("--") and word != "--" and word.partition("=")[0] not in options:
            yield f"{called}: there is no option {word}"
            return
    if is_complete and "--help" not in words and not hasattr(command, "commands"):
        try:
            command.make_context(command.name, [_PLACEHOLDER.sub("1", word) for word in words])
        except TyperException as error:
            yield f"{called}: {error}"


def _words(arguments: str) -> list[str]:
    try:
        return shlex.split(arguments)
    except ValueError:
        return arguments.split()


@cache
def _commands() -> frozenset[str]:
    command: Any = typer.main.get_command(app)
    return frozenset(command.commands)


@cache
def _options() -> frozenset[str]:
    """Return the options of all commands, and those that stand in the project's files, as benchmarks have them."""

    def of(command: Any) -> set[str]:
        found = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        return found.union(*map(of, getattr(command, "commands", {}).values()))

    return frozenset(of(typer.main.get_command(app)).union(*map(_OPTION.findall, _sources())))


@cache
def _targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@cache
def _settings() -> frozenset[str]:
    """Return the names of all settings, without those of their tables."""
    return frozenset(field for table in tables() for field in table.struct.__struct_fields__)


@cache
def _routes() -> frozenset[re.Pattern[str]]:
    """Return expressions of the paths of all routes that answer programs."""
    operations = [operation for dialect in DIALECTS.values() for operation in dialect.OPERATIONS]
    paths = {operation.path for operation in (*operations, *(route.operation for route in ADMIN_ROUTES))}
    paths.update(health.PATHS, metrics.PATHS, openapi.PATHS, ["/"])
    return frozenset(re.compile(re.sub(r"\\\{[^}]*\}", r"\\S+", re.escape(path))) for path in paths)


@cache
def _defaults() -> dict[str, set[object]]:
    """Return the defaults of all settings by their names without those of their tables."""
    found: dict[str, set[object]] = {}
    for table in tables():
        for field in msgspec.structs.fields(table.struct):
            if isinstance(field.default, int | float | str | None):
                found.setdefault(field.name, set()).add(field.default)
    return found


@cache
def _metrics() -> frozenset[str]:
    names = {exported_name(metric) for metric in registry().collect()}
    return frozenset(names | {f"dragoman_{name}" for name in ("up", "run", "conf")})


@cache
def _files() -> frozenset[str]:
    """Return the project's files, each as /src/…, so that the end of a path can be looked for."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return frozenset(f"/{path}" for path in listed.splitlines())


@cache
def _sources() -> tuple[str, ...]:
    """Return the texts of the project's files but for documents, this one and its test."""
    own = ("documents.py", "test_documents.py")
    paths = [path for path in map(Path, _files()) if _SOURCE.search(path.name) and path.name not in own]
    return tuple((ROOT / path.relative_to("/")).read_text(encoding="utf-8") for path in paths)


@cache
def _known_names() -> frozenset[str]:
    """Return all words of the project's source files, and of the names of its settings and files."""
    from dragoman.server.settings_loading import environment_variable

    found = set(OTHERS_NAMES)
    for text in (*_files(), *_sources()):
        found.update(re.findall(r"\w+", text))
    for table in tables():
        if not table.is_in_array:
            found.update(environment_variable(table.prefix + name) for name in table.struct.__struct_fields__)
    return frozenset(found)


def main() -> int:
    """Print what is not true. Return the process's exit status."""
    mistakes = list(find_mistakes(ROOT))
    for mistake in mistakes:
        print(mistake, file=sys.stderr)
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
