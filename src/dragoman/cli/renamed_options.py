"""Commands with renamed options. The old names are still accepted, and not shown in the help."""

from collections.abc import Callable, Mapping

import typer
from typer.core import TyperCommand

_DEPRECATED = "dragoman.deprecated_options"

Report = Callable[[typer.Context, Mapping[str, str]], None]


def report_on_standard_error(_context: typer.Context, deprecated: Mapping[str, str]) -> None:
    """Print one line that names the old options and their current names."""
    if deprecated:
        names = ", ".join(f"{old} (now {current})" for old, current in deprecated.items())
        typer.echo(f"dragoman: deprecated options: {names}", err=True)


def keep_for_command(context: typer.Context, deprecated: Mapping[str, str]) -> None:
    """Keep the names for `deprecated_options`: the command reports them."""
    context.meta[_DEPRECATED] = deprecated


def deprecated_options(context: typer.Context) -> Mapping[str, str]:
    """Return the old options that were used → their current names."""
    found: Mapping[str, str] = context.meta[_DEPRECATED]
    return found


def command_class(renamed: Mapping[str, str], report: Report = report_on_standard_error) -> type[TyperCommand]:
    """Return the class of a command that accepts the old options `renamed` → current ones."""

    class CommandWithRenamedOptions(TyperCommand):
        def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
            current, deprecated = _with_current_options(args, renamed)
            report(ctx, deprecated)
            return super().parse_args(ctx, current)

    return CommandWithRenamedOptions


def _with_current_options(arguments: list[str], renamed: Mapping[str, str]) -> tuple[list[str], Mapping[str, str]]:
    """Return the arguments with the current names, and the old names among them → their current ones."""
    current: list[str] = []
    deprecated: dict[str, str] = {}
    for number, argument in enumerate(arguments):
        if argument == "--":
            return [*current, *arguments[number:]], deprecated
        option, separator, value = argument.partition("=")
        if option in renamed:
            deprecated[option] = renamed[option]
        current.append(f"{renamed.get(option, option)}{separator}{value}")
    return current, deprecated
