"""Jinja2 as Hugging Face's transformers set it up for chat templates, in a sandbox."""

import contextlib
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_SOURCE_NAME = "<template>"
"""Jinja's file name for a template that was not read from a file."""

_MAX_REASON_CHARACTERS = 500
"""Limit for an error's text, since a template may put a whole conversation into it."""


class TemplateError(Exception):
    """A template cannot render a conversation. The message is for a person."""


class TemplateRefusal(TemplateError):
    """The template called raise_exception with this message."""


class OutputTooLong(TemplateError):
    """The template writes more characters than allowed."""


class TooManySteps(TemplateError):
    """The template entered more blocks than allowed."""


class _StepLimitReached(Exception):
    """No step is left."""


class _TemplateRaised(jinja2.TemplateError):
    """raise_exception was called."""


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's text for training and has no effect on the text."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


_LIST_CHANGES = ("append", "extend", "insert", "pop")


class _GivenList(list[Any]):
    """A list that a template was given and must not change."""


class _CountingCodeGenerator(CodeGenerator):
    """Writes a call at the beginning of every block, such as the body of a loop or a macro, and in a loop's filter."""

    def blockvisit(self, statements: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline("environment.count_step()")
        super().blockvisit(statements, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802 - Jinja's own name
        if node.test is not None:
            count = nodes.Call(nodes.EnvironmentAttribute("count_step"), [], [], None, None, lineno=node.lineno)
            node.test = nodes.And(count, node.test, lineno=node.lineno)
        super().visit_For(node, frame)


class _Environment(ImmutableSandboxedEnvironment):
    """Lets templates change lists of their own, as those of Kimi K2 do."""

    code_generator_class = _CountingCodeGenerator
    remaining_steps = float("inf")
    """Blocks that the template may still enter."""

    def count_step(self) -> bool:
        """Count a block that is entered. True if it may be."""
        self.remaining_steps -= 1
        if self.remaining_steps < 0:
            raise _StepLimitReached
        return True

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return (attr in _LIST_CHANGES and type(obj) is list) or super().is_safe_attribute(obj, attr, value)


def build_environment() -> _Environment:
    """Return an environment without a loader, with the extensions of transformers.

    They are loop controls, raise_exception, strftime_now and a plain tojson.
    """
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _GenerationTag]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


class SandboxedTemplate:
    """A template's source, compiled on first use."""

    def __init__(self, source: str, max_steps: int | None = None) -> None:
        """`max_steps`: blocks that one rendering may enter; None: any number."""
        self.source = source
        self._max_steps = float("inf") if max_steps is None else max_steps
        self._environment = build_environment()
        self._template: jinja2.Template | None = None

    @functools.cached_property
    def variables(self) -> frozenset[str]:
        """The names that the template reads from outside; empty if it does not compile."""
        try:
            return frozenset(jinja2.meta.find_undeclared_variables(self._environment.parse(self.source)))
        except (jinja2.TemplateError, RecursionError):
            return frozenset()

    def render(self, variables: Mapping[str, Any], max_characters: int | None = None) -> str:
        """Return the text. Raises TemplateError or a subclass, with the template's line, if the template fails."""
        try:
            if self._template is None:
                self._template = self._environment.from_string(self.source)
            self._environment.remaining_steps = self._max_steps
            return self._generate(self._template, variables, max_characters)
        except _TemplateRaised as raised:
            raise TemplateRefusal(_truncated(str(raised))) from raised
        except _StepLimitReached:
            raise TooManySteps(f"it enters more than {self._max_steps} blocks") from None
        except (
            jinja2.TemplateError,
            SyntaxError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            RuntimeError,
            MemoryError,
        ) as error:
            raise TemplateError(f"{_line_prefix(error)}{_truncated(_reason(error))}") from error

    def render_with_null(self, variables: Mapping[str, Any], max_characters: int | None = None) -> str:
        """Do what `render` does, but leave the variables out that are null if the template fails on them.

        A variable that a request has no value for is null in transformers and absent in llama.cpp.
        """
        try:
            return self.render(variables, max_characters)
        except (TemplateRefusal, OutputTooLong, TooManySteps):
            raise
        except TemplateError as error:
            present = {name: value for name, value in variables.items() if value is not None}
            if len(present) < len(variables):
                with contextlib.suppress(TemplateError):
                    return self.render(present, max_characters)
            raise error

    def _generate(self, template: jinja2.Template, variables: Mapping[str, Any], max_characters: int | None) -> str:
        parts: list[str] = []
        length = 0
        given = {name: _GivenList(value) if type(value) is list else value for name, value in variables.items()}
        for part in template.generate(given):
            parts.append(part)
            length += len(part)
            if max_characters is not None and length > max_characters:
                raise OutputTooLong(f"it writes more than {max_characters} characters")
        text = "".join(parts)
        text.encode()  # A template may write half a surrogate pair: report it here and not in a later encode.
        return text


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Encode without Jinja2's escaping for HTML, since a model reads the text and not a browser.

    What a filter such as `map` yields is a list, as in llama.cpp.
    """
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_yielded,
    )


def _yielded(value: object) -> list[Any]:
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _raise_exception(message: str) -> NoReturn:
    raise _TemplateRaised(message)


def strftime_now(format: str) -> str:
    """Format the local time."""
    return datetime.now().strftime(format)


def _line_prefix(error: Exception) -> str:
    """Return the template's line in which the error was raised, if it is known."""
    line = error.lineno if isinstance(error, jinja2.TemplateSyntaxError) else None
    traceback = error.__traceback__
    while traceback is not None and not isinstance(error, jinja2.TemplateSyntaxError):
        if traceback.tb_frame.f_code.co_filename == _SOURCE_NAME:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return "" if line is None else f"line {line}: "


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    if isinstance(error, SyntaxError):
        return error.msg
    return str(error) or type(error).__name__


def _truncated(reason: str) -> str:
    return reason[:_MAX_REASON_CHARACTERS].encode(errors="replace").decode()
