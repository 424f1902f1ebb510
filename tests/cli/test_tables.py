"""Tables and fields on a terminal."""

import pytest

from dragoman.cli.tables import print_fields, print_table

HOSTILE = "\x1b]0;title\x07\x1b[31mred\x9b2J\nstate  finished"
HARMLESS = r"\x1b]0;title\x07\x1b[31mred\x9b2J\x0astate  finished"


def test_what_clients_wrote_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"state": "failed", "error": HOSTILE})
    print_table({"models": "left"}, [[(HOSTILE, "é")]])
    fields, table = capsys.readouterr().out.split("\n", 2)[1:]
    assert fields == f"error  {HARMLESS}"
    assert f"{HARMLESS}, é" in table
