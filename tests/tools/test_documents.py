"""The check of what documents show and name."""

from pathlib import Path

import pytest

from tools.documents import ROOT, find_mistakes, unknown_names, wrong_commands, wrong_defaults, wrong_settings


def test_what_the_projects_documents_show_and_name_exists() -> None:
    assert list(map(str, find_mistakes(ROOT))) == []


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("dragoman modls", "there is no command modls"),
        (".venv/bin/dragoman serve echo --ctx-size 5", "there is no option --ctx-size"),
        ("dragoman deposit acme", "Missing parameter: amount"),
        ("dragoman reload 1 2", "unexpected extra argument"),
        ("KEY=$(dragoman keys make acme)", "there is no command make"),
        ("docker compose exec dragoman dragoman accounts creat acme", "there is no command creat"),
        ("dragoman usage --group-by colour   # a remark", "'colour' is not one of"),
        ("python -m benchmarks.none", "there is no module benchmarks.none"),
        ("make teh-tea", "there is no target make teh-tea"),
    ],
)
def test_a_command_that_the_command_line_refuses_is_found(command: str, problem: str) -> None:
    [found] = wrong_commands(command, is_complete=True)
    assert problem in found


def test_commands_within_a_text_may_lack_arguments_but_not_be_others() -> None:
    for command in ("dragoman jobs show", "dragoman serve --take-over PID", "db upgrade|status", "docker run dragoman"):
        assert list(wrong_commands(command, is_complete=False)) == []
    [found] = wrong_commands("db upgrade|stats", is_complete=False)
    assert "there is no command stats" in found


def test_settings_that_a_server_would_not_start_with_are_found() -> None:
    assert list(wrong_settings('[[keys]]\nname = "a"\nkey = "env:SOME_KEY"\n')) == []
    assert list(wrong_settings("worker = 2")) != []
    assert list(wrong_settings('model = "echo"\n[[deployments]]\nname = "a"\n')) == [
        "settings: a model and [[deployments]] are both set; set the model in one place"
    ]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ('tool_fromat = "hermes"', "there is no setting tool_fromat"),
        ("dragoman_requets_total", "there is no metric dragoman_requets_total"),
        ("DRAGOMAN_WORKER", "nothing is called DRAGOMAN_WORKER"),
        ("event_that_was_renamed_away", "nothing is called event_that_was_renamed_away"),
        ("--reqantize never", "nothing has the option --reqantize"),
        ("server/nowhere.py", "there is no file server/nowhere.py"),
    ],
)
def test_a_name_that_nothing_has_is_found(code: str, problem: str) -> None:
    assert problem in list(unknown_names(code))


def test_a_route_that_is_none_is_found(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "`GET /v1/models/{id}`, `PATCH /admin/keys/7`, `GET /health`, `POST /v1/chats`\n\n"
        "```sh\ncurl http://127.0.0.1:8000/tokenize -d '{}'\ncurl http://127.0.0.1:8000/tokenise -d '{}'\n```\n"
    )
    assert [mistake.message for mistake in find_mistakes(tmp_path)] == [
        "there is no route /tokenise",
        "there is no route /v1/chats",
    ]


def test_a_default_that_is_another_one_is_found() -> None:
    document = (
        "`wait_seconds` (120), `engine.kv_cache_tokens`\n(16,384), `drain_seconds` (30 by default), `other` (7)\n"
    )
    assert list(wrong_defaults(document)) == []
    assert list(wrong_defaults(document.replace("16,384", "8,192"))) == [(1, "the default of kv_cache_tokens is 16384")]


def test_names_in_the_changelog_and_in_generated_parts_may_be_gone(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "CHANGELOG.md").write_text("`name_that_is_gone`, `dragoman modls`\n")
    generated = "<!-- made by tools/x.py from here -->\n`name_that_is_gone`\n<!-- to here -->\n"
    (tmp_path / "docs" / "a.md").write_text(f"# A\n{generated}\n\n`name_that_is_gone`\n")
    assert list(map(str, find_mistakes(tmp_path))) == [
        "CHANGELOG.md:1: dragoman modls: there is no command modls",
        "docs/a.md:7: nothing is called name_that_is_gone",
    ]
