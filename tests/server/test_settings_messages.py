"""What is said of settings that stand in the wrong place or have the wrong form."""

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
    assert message == "/settings.toml: console.hosts: expected `array`, got `str`"


def test_a_text_that_is_too_short_or_of_another_form_is_described(tmp_path: Path) -> None:
    message = error_message(tmp_path, 'api_key = "short"')
    assert message == "/settings.toml: api_key must be text of at least 16 characters"
    message = error_message(tmp_path, '[console]\nbase_path = "admin"\n')
    assert message.endswith("console.base_path must be text of the form ^(/[A-Za-z0-9._~-]+)+$, got 'admin'")
