"""Paths that begin with `~`."""

from pathlib import Path

import pytest

from dragoman.core.user_paths import user_path


def test_a_home_directory_that_is_known_is_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert user_path("~/key.pem") == user_path(Path("~/key.pem")) == Path("/home/ann/key.pem")


def test_the_path_of_an_unknown_user_stays_and_names_no_file() -> None:
    assert user_path("~no-such-user/key.pem") == Path("~no-such-user/key.pem")
