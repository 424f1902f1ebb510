"""Settings whose text stands in a variable or a file."""

import os
from pathlib import Path

import pytest

from dragoman.server.settings_loading import LoadedSettings, SettingsError, read_settings
from dragoman.server.settings_references import MAX_FILE_BYTES

SECRET = "correct-horse-battery-staple"


def read(folder: Path, toml: str, **environment: str) -> LoadedSettings:
    path = folder / "settings.toml"
    path.write_text(toml, encoding="utf-8")
    return read_settings(path, environment, {})


def error_message(folder: Path, toml: str, **environment: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(folder, toml, **environment)
    return str(caught.value).replace(str(folder), "")


def test_a_text_is_read_from_a_variable_or_a_file_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    toml = f'log_level = "env:LEVEL"\n[[keys]]\nname = "ann"\nkey = "file:{tmp_path}/key"\n'
    loaded = read(tmp_path, toml, LEVEL="debug")
    assert loaded.settings.log_level == "debug"
    assert [key.key for key in loaded.settings.keys] == [SECRET]
    assert loaded.origins["log_level"] == f"{tmp_path}/settings.toml, env:LEVEL"
    assert loaded.origins["keys"] == f"{tmp_path}/settings.toml, file:{tmp_path}/key"


def test_a_number_may_be_referred_to(tmp_path: Path) -> None:
    assert read(tmp_path, 'port = "env:PORT"', PORT="8080").settings.port == 8080


def test_an_option_may_be_a_reference() -> None:
    assert read_settings(None, {"HOST": "::1"}, {"host": "env:HOST"}).settings.host == "::1"


@pytest.mark.parametrize("text", ["env:", "env:1ST", "env: NAME", "file:relative/path", "environment:NAME", "file:"])
def test_other_texts_are_themselves(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, f'model = "{text}"').settings.model == text


def test_a_reference_to_nothing_is_named(tmp_path: Path) -> None:
    message = error_message(tmp_path, 'host = "env:NOWHERE"')
    assert message == "/settings.toml: host: the environment variable NOWHERE is not set"
    message = error_message(tmp_path, 'host = "file:~no-such-user/host"')
    assert message == "/settings.toml: host: ~no-such-user/host cannot be read: No such file or directory"
    message = error_message(tmp_path, f'[[keys]]\nname = "ann"\nkey = "file:{tmp_path}/absent"\n')
    assert message == "/settings.toml: keys[0].key: /absent cannot be read: No such file or directory"


def test_a_file_that_holds_no_setting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    message = error_message(tmp_path, f'host = "file:{tmp_path}/binary"')
    assert message == "/settings.toml: host: /binary is not UTF-8 text (byte 0)"
    (tmp_path / "long").write_bytes(b"a" * (MAX_FILE_BYTES + 1))
    message = error_message(tmp_path, f'host = "file:{tmp_path}/long"')
    assert message == f"/settings.toml: host: /long has more than {MAX_FILE_BYTES} bytes"


def test_a_wrong_value_is_not_shown_but_its_reference(tmp_path: Path) -> None:
    message = error_message(tmp_path, 'port = "env:PORT"', PORT=SECRET)
    assert message == "/settings.toml: port must be an integer from 0 to 65535, got 'env:PORT'"


def test_a_wrong_secret_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(None, {"DRAGOMAN_QUEUE_WEBHOOK_SECRET": ""}, {})
    assert str(caught.value) == "environment: DRAGOMAN_QUEUE_WEBHOOK_SECRET must be text that is not empty"


def test_a_variable_may_name_a_file(tmp_path: Path) -> None:
    path = tmp_path / "database"
    path.write_text("sqlite\r\n")
    loaded = read_settings(None, {"DRAGOMAN_ACCOUNTS_DATABASE_FILE": str(path)}, {})
    assert loaded.settings.accounts.database == "sqlite"
    assert loaded.origins == {"accounts.database": "environment: DRAGOMAN_ACCOUNTS_DATABASE_FILE"}


def test_a_variable_and_its_file_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="DRAGOMAN_PORT and DRAGOMAN_PORT_FILE are both set; remove one"):
        read_settings(None, {"DRAGOMAN_PORT": "1", "DRAGOMAN_PORT_FILE": os.devnull}, {})


def test_a_variable_with_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(None, {"DRAGOMAN_PORT_FILE": str(tmp_path)}, {})
    assert str(caught.value) == f"environment: DRAGOMAN_PORT_FILE: {tmp_path} cannot be read: Is a directory"


def test_there_are_no_files_of_unknown_variables() -> None:
    with pytest.raises(SettingsError, match="unknown variable DRAGOMAN_KEYS_FILE"):
        read_settings(None, {"DRAGOMAN_KEYS_FILE": os.devnull}, {})


def test_a_secret_in_the_arguments_is_refused_and_a_reference_to_one_taken() -> None:
    for secret in (SECRET, "short"):
        with pytest.raises(SettingsError) as caught:
            read_settings(None, {}, {"api_key": secret})
        assert str(caught.value) == (
            "command line: --api-key: every user of this machine can read it while the server runs; pass env:NAME or "
            "file:/path, or set DRAGOMAN_API_KEY"
        )
    [key] = read_settings(None, {"NAME": SECRET}, {"api_key": "env:NAME"}).settings.client_keys
    assert (key.name, key.key) == ("api_key", SECRET)
