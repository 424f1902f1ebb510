"""Old names of options: accepted, reported in one line, absent from the help."""

from collections.abc import Mapping
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from dragoman.cli.main import app
from dragoman.cli.renamed_options import command_class, deprecated_options, keep_for_command
from dragoman.cli.serving_options import RENAMED_OPTIONS

RENAMED = {"--by": "--group-by", "--open": "--public"}


def program(*, kept: list[Mapping[str, str]] | None = None) -> typer.Typer:
    """A program that prints its options, and puts the deprecated ones into `kept` instead of reporting them."""
    program = typer.Typer()
    command = command_class(RENAMED) if kept is None else command_class(RENAMED, keep_for_command)

    @program.command(cls=command)
    def show(
        context: typer.Context,
        word: Annotated[str, typer.Argument()] = "",
        group_by: Annotated[str, typer.Option()] = "",
        public: Annotated[bool, typer.Option("--public")] = False,
    ) -> None:
        typer.echo(f"{word} {group_by} {public}")
        if kept is not None:
            kept.append(deprecated_options(context))

    return program


@pytest.mark.parametrize("arguments", [["--by", "day"], ["--by=day"]])
def test_an_old_option_sets_the_current_one_and_is_reported_in_one_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(program(), arguments)
    assert result.stdout == " day False\n"
    assert result.stderr == "dragoman: deprecated options: --by (now --group-by)\n"


def test_several_old_options_are_reported_in_the_same_line() -> None:
    result = CliRunner().invoke(program(), ["--open", "--by", "day"])
    assert result.stdout == " day True\n"
    assert result.stderr == "dragoman: deprecated options: --open (now --public), --by (now --group-by)\n"


def test_current_options_are_not_reported() -> None:
    result = CliRunner().invoke(program(), ["--group-by", "day", "--public"])
    assert (result.stdout, result.stderr) == (" day True\n", "")


def test_what_follows_two_dashes_is_no_option() -> None:
    result = CliRunner().invoke(program(), ["--", "--by"])
    assert (result.stdout, result.stderr) == ("--by  False\n", "")


def test_a_command_may_report_its_old_options_itself() -> None:
    kept: list[Mapping[str, str]] = []
    result = CliRunner().invoke(program(kept=kept), ["--by", "day"])
    assert (result.stdout, result.stderr) == (" day False\n", "")
    assert kept == [{"--by": "--group-by"}]


@pytest.mark.parametrize(
    ("command", "old", "current"),
    [
        (["usage"], "--by", "--group-by"),
        (["prices", "set"], "--from", "--valid-from"),
        (["keys", "create"], "--expires", "--expires-at"),
        *((["serve"], old, current) for old, current in RENAMED_OPTIONS.items()),
    ],
)
def test_the_help_shows_the_current_names_only(command: list[str], old: str, current: str) -> None:
    words = CliRunner().invoke(app, [*command, "--help"]).stdout.split()
    assert current in words
    assert old not in words


def test_the_renamed_options_of_serve_are_those_of_renamed_settings() -> None:
    assert RENAMED_OPTIONS == {
        "--max-waiting": "--max-waiting-requests",
        "--open": "--allow-unauthenticated",
        "--context-cells": "--kv-cache-tokens",
        "--parallel": "--max-sequences",
        "--rewrite-weights": "--requantize",
    }


@pytest.mark.parametrize(("old", "current"), RENAMED_OPTIONS.items())
def test_a_wrong_value_of_an_old_option_is_refused(old: str, current: str) -> None:
    value = [] if old == "--open" else ["-1"]
    result = CliRunner().invoke(app, ["serve", old, *value, "--port", "-1"])
    assert result.exit_code == 2
    assert result.stderr.startswith("dragoman: command line: --")
