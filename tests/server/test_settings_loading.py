from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dragoman.prompt.tool_formats import FORMATS
from dragoman.server.renamed_settings import RENAMED_SETTINGS
from dragoman.server.settings import EngineSettings, KeySettings, Settings
from dragoman.server.settings_loading import (
    FILE_ONLY,
    SettingsError,
    environment_variable,
    load_settings,
    read_settings,
)

DEPLOYMENT = '[[deployments]]\nname = "a"\nmodel = "echo"\n'
DIALECTS = "anthropic, arcee, empower, float16, infermatic, openai, responses, scale"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_message(
    toml: str | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> str:
    path = None
    if toml is not None:
        path = Path("settings.toml")
        path.write_text(toml)
    with pytest.raises(SettingsError) as caught:
        load_settings(path, environment or {}, overrides or {})
    text = str(caught.value)
    assert "\n" not in text
    return text


def settings_of(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(struct):
        if isinstance(field.default, msgspec.Struct):
            yield from settings_of(type(field.default), f"{field.name}.")
        else:
            yield prefix + field.name, field.default


ALL_SETTINGS = dict(settings_of(Settings))


def test_without_input_all_settings_have_their_defaults(folder: Path) -> None:
    assert load_settings(None, {}, {}) == Settings()


def test_a_variable_beats_the_file_and_a_flag_beats_the_variable(folder: Path) -> None:
    Path("dragoman.toml").write_text("port = 1\nworkers = 1\nmax_waiting_requests = 1\n[engine]\nthreads = 1\n")
    settings = load_settings(
        None,
        {"DRAGOMAN_WORKERS": "2", "DRAGOMAN_MAX_WAITING_REQUESTS": "2"},
        {"max_waiting_requests": 3, "engine.threads": 3},
    )
    assert (settings.port, settings.workers, settings.max_waiting_requests) == (1, 2, 3)
    assert settings.engine.threads == 3


def test_an_override_of_none_was_not_given(folder: Path) -> None:
    assert load_settings(None, {"DRAGOMAN_PORT": "9"}, {"port": None}).port == 9


def test_a_table_that_sets_one_key_leaves_the_others_at_their_defaults(folder: Path) -> None:
    path = folder / "mine.toml"
    path.write_text("[engine]\nmax_sequences = 2\n")
    assert load_settings(path, {}, {}).engine == EngineSettings(max_sequences=2)


def test_an_explicit_file_is_read_instead_of_the_default_one(folder: Path) -> None:
    Path("dragoman.toml").write_text("port = 1\n")
    other = folder / "other.toml"
    other.write_text("port = 2\n")
    assert load_settings(other, {}, {}).port == 2


def test_an_explicit_file_must_exist(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"^absent\.toml: there is no such settings file$"):
        load_settings(Path("absent.toml"), {}, {})


def test_variables_without_the_prefix_are_ignored(folder: Path) -> None:
    assert load_settings(None, {"PORT": "x", "PATH": "/bin"}, {}) == Settings()


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("DRAGOMAN_PORT", "9000", "port", 9000),
        ("DRAGOMAN_DRAIN_SECONDS", "2.5", "drain_seconds", 2.5),
        ("DRAGOMAN_LOG_LEVEL", "debug", "log_level", "debug"),
        ("DRAGOMAN_MODEL", "echo", "model", "echo"),
    ],
)
def test_a_variable_is_text_for_a_value_of_the_settings_type(
    folder: Path, variable: str, text: str, key: str, value: object
) -> None:
    assert load_settings(None, {variable: text}, {}) == msgspec.structs.replace(Settings(), **{key: value})


def test_variables_reach_into_tables(folder: Path) -> None:
    environment = {
        "DRAGOMAN_ENGINE_KV_CACHE_TOKENS": "512",
        "DRAGOMAN_ENGINE_REPRODUCIBLE": "true",
        "DRAGOMAN_ECHO_TOKENS_PER_SECOND": "50",
    }
    settings = load_settings(None, environment, {})
    assert settings.engine == EngineSettings(kv_cache_tokens=512, reproducible=True)
    assert settings.echo.tokens_per_second == 50


TABLES = (
    "deployments",
    "adapters",
    "keys",
    "admin.keys",
    "dialect_hosts",
    *("allowed_hosts", "console.hosts", "console.keep_bodies_except"),
    "allowed_origins",
    "trusted_proxies",
)
PLAIN_SETTINGS = {key: default for key, default in ALL_SETTINGS.items() if key not in TABLES}
"""Those that fit into a variable; the others stand in the file alone."""


@pytest.mark.parametrize("key", PLAIN_SETTINGS)
def test_every_setting_refuses_a_wrong_value_in_words(folder: Path, key: str) -> None:
    text = error_message(overrides={key: ["not", "this"]})
    assert text.startswith(f"command line: --{key.rpartition('.')[2].replace('_', '-')} must be ")
    assert text.endswith(", got ['not', 'this']")


@pytest.mark.parametrize("key", [key for key, default in PLAIN_SETTINGS.items() if default is not None])
def test_every_setting_has_a_variable(folder: Path, key: str) -> None:
    default = PLAIN_SETTINGS[key]
    text = str(default).lower() if isinstance(default, bool) else str(default)
    assert load_settings(None, {environment_variable(key): text}, {}) == Settings()


def test_a_wrong_value_in_a_file_names_file_key_range_and_value(folder: Path) -> None:
    assert error_message("port = 70000") == "settings.toml: port must be an integer from 0 to 65535, got 70000"
    assert error_message("workers = true") == "settings.toml: workers must be an integer of at least 1, got True"
    assert error_message("[engine]\nreproducible = 1") == (
        "settings.toml: engine.reproducible must be true or false, got 1"
    )


def test_a_wrong_variable_is_named(folder: Path) -> None:
    assert error_message(environment={"DRAGOMAN_LOG_LEVEL": "warn"}) == (
        "environment: DRAGOMAN_LOG_LEVEL must be one of debug, error, info, warning, got 'warn'"
    )
    assert error_message(environment={"DRAGOMAN_PORT": ""}).startswith("environment: DRAGOMAN_PORT must be an integer")


def test_a_wrong_flag_is_named(folder: Path) -> None:
    assert error_message(overrides={"engine.kv_cache_tokens": 10}) == (
        "command line: --kv-cache-tokens must be an integer from 256 to 2147483647, got 10"
    )


@pytest.mark.parametrize("number", ["inf", "nan"])
def test_seconds_are_finite(folder: Path, number: str) -> None:
    assert error_message(f"drain_seconds = {number}").startswith("settings.toml: drain_seconds must be a")


def test_a_key_of_the_admin_api_is_written_out_or_as_its_digest(folder: Path) -> None:
    digest = "0123456789abcdef" * 4
    path = folder / "settings.toml"
    path.write_text(
        '[[admin.keys]]\nname = "ada"\nkey = "sk-0123456789abcdef"\n'
        f'[[admin.keys]]\nname = "bob"\nsha256 = "{digest}"\n'
    )
    ada, bob = load_settings(path, {}, {}).admin.keys
    assert (ada.name, ada.key, bob.sha256) == ("ada", "sk-0123456789abcdef", digest)


@pytest.mark.parametrize(
    "secret",
    ['key = "too short"', 'sha256 = "not-a-digest"', "", f'key = "sk-0123456789abcdef"\nsha256 = "{"0" * 64}"'],
)
def test_a_wrong_key_of_the_admin_api_is_refused_without_showing_it(folder: Path, secret: str) -> None:
    text = error_message(f'[[admin.keys]]\nname = "ada"\n{secret}\n')
    assert text.startswith("settings.toml: admin.keys[0]")
    assert not any(hidden in text for hidden in ("too short", "not-a-digest", "sk-0123"))


@pytest.mark.parametrize(
    ("toml", "place", "allowed"),
    [
        (DEPLOYMENT + 'dialects = ["no"]', "[0].dialects[0]", DIALECTS),
        (DEPLOYMENT + 'tool_format = "no"', "[0].tool_format", ", ".join(sorted(FORMATS))),
        ('[dialect_hosts]\n"a.example" = "no"', ": each value", DIALECTS),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_wrong_choice_in_a_table_is_answered_with_the_allowed_ones(toml: str, place: str, allowed: str) -> None:
    assert error_message(toml).endswith(f"{place} must be one of {allowed}, got 'no'")


def test_an_unknown_key_is_answered_with_the_likely_and_the_allowed_ones(folder: Path) -> None:
    text = error_message("prot = 1")
    assert text.startswith("settings.toml: unknown key prot; did you mean port? Allowed here: model, host, port,")
    assert text.endswith("accounts, admin, queue, responses, engine, echo")


def test_an_unknown_key_in_a_table_is_answered_with_the_keys_of_that_table(folder: Path) -> None:
    assert error_message("[echo]\ntokens = 1") == (
        "settings.toml: unknown key echo.tokens; did you mean echo.tokens_per_second? "
        "Allowed here: echo.tokens_per_second, echo.context_length"
    )


@pytest.mark.parametrize("toml", ["[engin]\n", '"engin.threads" = 1', "zzzzzz = 1"])
def test_an_unknown_table_or_quoted_key_is_refused(folder: Path, toml: str) -> None:
    assert error_message(toml).startswith("settings.toml: unknown key ")


def test_a_table_that_is_not_one_is_refused(folder: Path) -> None:
    assert error_message("engine = 4") == "settings.toml: engine must be a table, [engine], got 4"


def test_an_unknown_variable_is_refused(folder: Path) -> None:
    text = error_message(environment={"DRAGOMAN_ENGINE_THREAD": "1"})
    assert text.startswith(
        "environment: unknown variable DRAGOMAN_ENGINE_THREAD; did you mean DRAGOMAN_ENGINE_THREADS? "
    )


def test_an_unknown_override_is_refused(folder: Path) -> None:
    assert error_message(overrides={"threads": 1}).startswith("command line: unknown setting threads; did you mean")


def test_a_syntax_error_names_file_and_line(folder: Path) -> None:
    assert error_message("port = 1\nhost = oops\n").startswith("settings.toml: is not valid TOML: ")
    assert "line 2" in error_message("port = 1\nhost = oops\n")


def test_a_file_that_cannot_be_read_as_text_is_refused(folder: Path) -> None:
    binary = folder / "binary.toml"
    binary.write_bytes(b"host = '\xff'")
    with pytest.raises(SettingsError, match=r"binary\.toml: is not UTF-8 text \(byte 8\)"):
        load_settings(binary, {}, {})
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_settings(folder, {}, {})


def test_keys_hosts_and_deployments_are_read_from_the_file(folder: Path) -> None:
    (folder / "settings.toml").write_text(
        """
        [[keys]]
        name = "build server"
        key = "sk-0123456789abcdef"

        [[deployments]]
        name = "small"
        model = "echo"
        dialects = ["float16", "scale"]
        load = "lazy"
        unload_idle_seconds = 60

        [dialect_hosts]
        "scale.example.com" = "scale"
        """
    )
    settings = load_settings(folder / "settings.toml", {}, {})
    assert settings.keys == (KeySettings("build server", "sk-0123456789abcdef"),)
    assert settings.dialect_hosts == {"scale.example.com": "scale"}
    [deployment] = settings.deployments
    assert (deployment.name, deployment.dialects, deployment.load) == ("small", ("float16", "scale"), "lazy")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[keys]]\nname = "x"\nkey = "short-secret"', "keys[0].key must be text of at least 16 characters"),
        ('[[keys]]\nname = "x"\nkey = "sk-0123456789abcdef"\nextra = 1', "keys[0]: unknown key extra. Allowed"),
        ('[[deployments]]\nname = "a/b"\nmodel = "echo"', "deployments[0].name must be text of the form ^[A-Z"),
        ('[[deployments]]\nmodel = "a"', "deployments[0]: the key name is missing"),
        ('[dialect_hosts]\n"a" = "acme"', "dialect_hosts: each value must be one of anthropic"),
    ],
)
def test_a_wrong_table_is_reported_without_its_values(folder: Path, text: str, expected: str) -> None:
    message = error_message(text)
    assert expected in message
    assert "secret" not in message
    assert "sk-" not in message


def test_there_are_no_variables_for_tables(folder: Path) -> None:
    with pytest.raises(SettingsError, match="unknown variable DRAGOMAN_KEYS"):
        load_settings(None, {"DRAGOMAN_KEYS": "[]"}, {})


@pytest.mark.parametrize(
    ("text", "database"),
    [
        ("", None),
        ("[accounts]", "sqlite"),
        ("[accounts]\nmax_hold_tokens = 9", "sqlite"),
        ('[accounts]\ndatabase = "x"', "x"),
    ],
)
def test_an_empty_accounts_table_enables_accounts(folder: Path, text: str, database: str | None) -> None:
    path = folder / "settings.toml"
    path.write_text(text)
    assert load_settings(path, {}, {}).accounts.database == database
    assert load_settings(path, {"DRAGOMAN_ACCOUNTS_DATABASE": "y"}, {}).accounts.database == "y"


EXAMPLES = {
    "hosts": {"a.example.com": "scale"},
    "proxies": ["127.0.0.1"],
    "adapter_folder": "adapters",
    "accounts.journals": "journals",
    "engine.parallel": 100,
    "engine.rewrite_weights": "never",
    "engine.library": "own.so",
}
"""Values of renamed settings for which neither 300 nor the opposite of the default is valid."""


def example_of(old: str) -> object:
    default = ALL_SETTINGS[RENAMED_SETTINGS[old]]
    return EXAMPLES.get(old, not default if isinstance(default, bool) else 300)


def plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def value_of(settings: Settings, key: str) -> object:
    group, _, name = key.rpartition(".")
    return plain(getattr(getattr(settings, group) if group else settings, name))


@pytest.mark.parametrize(("old", "key"), RENAMED_SETTINGS.items())
def test_the_old_name_of_a_setting_is_accepted_in_the_file_and_deprecated(folder: Path, old: str, key: str) -> None:
    group, _, name = old.rpartition(".")
    example = example_of(old)
    path = folder / "settings.toml"
    if isinstance(example, dict):
        path.write_text(f"[{name}]\n" + "".join(f'"{host}" = "{dialect}"\n' for host, dialect in example.items()))
    else:
        path.write_text((f"[{group}]\n" if group else "") + f"{name} = {msgspec.json.encode(example).decode()}\n")
    loaded = read_settings(path, {}, {})
    assert value_of(loaded.settings, key) == example
    assert loaded.deprecated == {old: key}


@pytest.mark.parametrize(("old", "key"), [entry for entry in RENAMED_SETTINGS.items() if entry[1] not in FILE_ONLY])
def test_the_old_name_of_a_variable_is_accepted_and_deprecated(folder: Path, old: str, key: str) -> None:
    example = example_of(old)
    text = str(example).lower() if isinstance(example, bool) else str(example)
    loaded = read_settings(None, {environment_variable(old): text}, {})
    assert value_of(loaded.settings, key) == example
    assert loaded.deprecated == {environment_variable(old): environment_variable(key)}


@pytest.mark.parametrize(("old", "current"), [("start", "eager"), ("first use", "lazy")])
def test_the_old_value_of_load_is_accepted_and_deprecated(folder: Path, old: str, current: str) -> None:
    path = folder / "settings.toml"
    path.write_text(f'[[deployments]]\nname = "a"\nmodel = "echo"\nload = "{old}"\n')
    loaded = read_settings(path, {}, {})
    assert loaded.settings.deployments[0].load == current
    assert loaded.deprecated == {f'deployments.load = "{old}"': f'deployments.load = "{current}"'}


def test_settings_in_their_current_spelling_are_not_deprecated(folder: Path) -> None:
    path = folder / "settings.toml"
    path.write_text('[engine]\nhost_cache_tokens = 0\n[[deployments]]\nname = "a"\nmodel = "echo"\nload = "lazy"\n')
    assert read_settings(path, {"DRAGOMAN_MAX_WAITING_REQUESTS": "1"}, {}).deprecated == {}


def test_both_names_of_a_setting_in_one_place_are_refused(folder: Path) -> None:
    assert error_message("[engine]\nparallel = 1\nmax_sequences = 2") == (
        "settings.toml: engine.parallel is the old name of engine.max_sequences, and both are set; "
        "remove engine.parallel"
    )
    both = {"DRAGOMAN_OPEN": "true", "DRAGOMAN_ALLOW_UNAUTHENTICATED": "true"}
    assert error_message(environment=both).startswith("environment: DRAGOMAN_OPEN is the old name of")


def test_the_old_name_in_the_file_gives_way_to_the_current_one_in_a_variable(folder: Path) -> None:
    Path("dragoman.toml").write_text("max_waiting = 1\n")
    assert load_settings(None, {"DRAGOMAN_MAX_WAITING_REQUESTS": "2"}, {}).max_waiting_requests == 2


def test_a_wrong_value_under_an_old_name_is_reported_as_it_was_written(folder: Path) -> None:
    assert error_message("max_waiting = -1") == "settings.toml: max_waiting must be an integer of at least 0, got -1"
