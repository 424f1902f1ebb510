import subprocess
import sys

import pytest

from dragoman.server.settings import Settings
from dragoman.server.worker import allows_adapter_registration

NOT_NEEDED = (
    "aiohttp",
    "attr",
    "difflib",
    "dragoman.server.admin",
    "dragoman.server.settings_loading",
    "gguf",
    "httpx",
    "huggingface_hub",
    "ik_llama_cpp",
    "llguidance",
    "numpy",
    "psycopg",
    "rich",
    "sqlalchemy.dialects.postgresql",
    "structlog",
    "typer",
    "xllamacpp",
    "yarl",
)
"""Modules of webhooks, engines, downloads, other databases, administration and the command line."""


def test_a_worker_imports_nothing_that_it_may_never_use() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, dragoman.server.worker; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "dragoman.jobs.service.queue" in loaded
    assert [name for name in NOT_NEEDED if name in loaded] == []


@pytest.mark.parametrize(
    ("setting", "has_accounts", "allowed"),
    [(None, False, True), (None, True, False), (True, True, True), (False, False, False)],
)
def test_with_accounts_clients_register_adapters_only_if_the_settings_allow_it(
    setting: bool | None, has_accounts: bool, allowed: bool
) -> None:
    settings = Settings(allow_adapter_registration=setting)
    assert allows_adapter_registration(settings, has_accounts=has_accounts) == allowed
