"""What is said of settings that stand in the wrong place, have the wrong form, or are gone."""

from pathlib import Path

import pytest

from dragoman.server.settings import Settings
from dragoman.server.settings_loading import (
    FILE_ONLY,
    SettingsError,
    environment_variable,
    load_settings,
    read_settings,
)
from dragoman.server.settings_report import report_values

NO_REFERENCE = "a secret begins with env: or file: and is neither env:NAME nor file:/path"


def error_message(folder: Path, toml: str) -> str:
    path = folder / "settings.toml"
    path.write_text(toml)
    with pytest.raises(SettingsError) as caught:
        read_settings(path, {}, {})
    return str(caught.value).replace(str(folder), "")


def test_no_array_or_table_has_a_variable() -> None:
    assert {key for key, value in report_values(Settings()) if isinstance(value, list | dict)} == FILE_ONLY
    for key in FILE_ONLY:
        with pytest.raises(SettingsError, match=f"unknown variable {environment_variable(key)}"):
            load_settings(None, {environment_variable(key): "a"}, {})


def test_a_text_in_place_of_an_array_is_refused(tmp_path: Path) -> None:
    message = error_message(tmp_path, '[console]\nhosts = "a"\n')
    assert message == "/settings.toml: console.hosts must be an array"


def test_a_text_that_is_too_short_or_of_another_form_is_described(tmp_path: Path) -> None:
    message = error_message(tmp_path, 'api_key = "short"')
    assert message == "/settings.toml: api_key must be text of at least 16 characters"
    message = error_message(tmp_path, '[console]\nbase_path = "admin"\n')
    assert message.endswith("console.base_path must be text of the form ^(/[A-Za-z0-9._~-]+)+$, got 'admin'")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ('engine = { requantize = "no" }', "deployments[1].engine.requantize must be one of auto, never, got 'no'"),
        ("engine = { threads = 0 }", "deployments[1].engine.threads must be an integer from 1 to 512"),
        ("engine = { thread = 4 }", "deployments[1].engine: unknown key thread; did you mean threads? Allowed here: "),
        ("engine = 4", "deployments[1].engine must be a table"),
        ("aliases = 4", "deployments[1].aliases must be an array"),
        (
            '[[deployments.upstreams]]\nurl = "http://127.0.0.1:1"\nweight = 2000',
            "deployments[1].upstreams[0].weight must be a number above 0, 1000 at most",
        ),
    ],
)
def test_a_wrong_setting_of_a_deployment_is_named_with_its_place(tmp_path: Path, setting: str, expected: str) -> None:
    message = error_message(tmp_path, f'[[deployments]]\nname = "a"\n[[deployments]]\nname = "b"\n{setting}\n')
    assert message.startswith(f"/settings.toml: {expected}")


def test_a_file_that_is_gone_is_missed_by_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dragoman.toml").write_text('api_key = "correct-horse-battery-staple"\n')
    loaded = read_settings(None, {}, {})
    (tmp_path / "dragoman.toml").unlink()
    with pytest.raises(SettingsError, match=r"^dragoman.toml: there is no such settings file$"):
        loaded.read_again()


def test_a_file_that_came_after_the_start_is_read_by_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = read_settings(None, {}, {})
    (tmp_path / "dragoman.toml").write_text("access_log = true\n")
    assert loaded.read_again().access_log


def test_a_reference_to_nothing_within_an_array_is_named_with_its_place(tmp_path: Path) -> None:
    upstream = '[[deployments.upstreams]]\nurl = "http://127.0.0.1:1"\nkey = "env:NOWHERE"\n'
    message = error_message(tmp_path, f'[[deployments]]\nname = "a"\n{upstream}')
    place = "deployments[0].upstreams[0].key"
    assert message == f"/settings.toml: {place}: the environment variable NOWHERE is not set"


@pytest.mark.parametrize("text", ["file:secrets/api-key.txt", "file:./secrets/api-key", "env:DRAGOMAN-KEY-OF-ANN"])
def test_a_secret_that_looks_like_a_reference_and_is_none_is_refused(tmp_path: Path, text: str) -> None:
    message = error_message(tmp_path, f'api_key = "{text}"')
    assert message == f"/settings.toml: api_key: {NO_REFERENCE}"
    message = error_message(tmp_path, f'[[keys]]\nname = "ann"\nkey = "{text}"\n')
    assert message == f"/settings.toml: keys: {NO_REFERENCE}"
    upstream = f'[[deployments.upstreams]]\nurl = "http://127.0.0.1:1"\nkey = "{text}"\n'
    message = error_message(tmp_path, f'[[deployments]]\nname = "a"\n{upstream}')
    assert message == f"/settings.toml: deployments: {NO_REFERENCE}"
    with pytest.raises(SettingsError, match=f"^environment: DRAGOMAN_API_KEY: {NO_REFERENCE}$"):
        load_settings(None, {"DRAGOMAN_API_KEY": text}, {})


@pytest.mark.parametrize(
    "setting",
    [
        "wait_seconds = inf",
        "unload_idle_seconds = inf",
        "engine = { step_timeout_seconds = inf }",
        '[[deployments.upstreams]]\nurl = "http://127.0.0.1:1"\ntimeouts = { connect = inf }',
    ],
)
def test_seconds_in_tables_are_finite_too(tmp_path: Path, setting: str) -> None:
    message = error_message(tmp_path, f'[[deployments]]\nname = "a"\nmodel = "echo"\n{setting}\n')
    assert message == "/settings.toml: deployments: numbers must be finite"
