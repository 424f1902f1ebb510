"""docs/configuration.md lists every setting as it is."""

import re

import msgspec
import pytest

from dragoman.server.reloading import LIVE_SETTINGS
from dragoman.server.renamed_settings import RENAMED_SETTINGS
from dragoman.server.settings_loading import SettingsError, load_settings
from tools.configuration_tables import DOCUMENT, Table, docstrings, tables, updated

TABLES = list(tables())


def test_the_document_is_up_to_date() -> None:
    text = DOCUMENT.read_text()
    assert updated(text) == text


def test_the_tables_of_the_file_are_found_with_those_inside_them() -> None:
    assert {table.header for table in TABLES if table.name} == {
        *("[http]", "[console]", "[accounts]", "[admin]", "[queue]"),
        *("[supervision]", "[engine]", "[echo]", "[metrics]"),
        *("[responses]", "[images]"),
        *("[[deployments]]", "[[deployments.upstreams]]", "[deployments.upstreams.timeouts]"),
        *("[[adapters]]", "[[keys]]", "[[admin.keys]]"),
    }


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name or "top level")
def test_every_setting_has_a_docstring_of_sentences(table: Table) -> None:
    documented = docstrings(table.struct)
    inner = {other.name.rpartition(".")[2] for other in TABLES if not other.is_array}
    for field in msgspec.structs.fields(table.struct):
        if field.name not in inner:
            assert re.fullmatch(r"[A-Z`].+\.", documented[field.name]), field.name


def is_known(variable: str) -> bool:
    try:
        load_settings(None, {variable: "?"}, {})
    except SettingsError as error:
        return "unknown variable" not in str(error)
    return True


def test_the_document_names_only_variables_that_exist() -> None:
    assert not is_known("DRAGOMAN_DEPLOYMENTS")
    variables = set(re.findall(r"DRAGOMAN_\w+", DOCUMENT.read_text()))
    assert {variable for variable in variables if not is_known(variable)} == set()


def test_every_row_has_the_same_number_of_cells_and_every_key_is_there_once() -> None:
    section = DOCUMENT.read_text().partition("## Settings")[2].partition("## Old names")[0]
    rows = [re.split(r"(?<!\\)\|", line) for line in section.splitlines() if line.startswith("| `")]
    assert {len(row) for row in rows} == {10}
    keys = [row[1].strip(" `") for row in rows]
    assert len(keys) == len(set(keys))
    assert set(RENAMED_SETTINGS.values()) <= set(keys)
    assert {key for row, key in zip(rows, keys, strict=True) if row[7].strip() and "[]" not in key} == LIVE_SETTINGS
