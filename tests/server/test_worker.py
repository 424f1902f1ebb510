import subprocess
import sys

NOT_NEEDED = (
    "aiohttp",
    "gguf",
    "httpx",
    "huggingface_hub",
    "ik_llama_cpp",
    "llguidance",
    "numpy",
    "typer",
    "xllamacpp",
)
"""Modules of webhooks, engines, downloads and the command line. (structlog imports rich if that is installed.)"""


def test_a_worker_imports_nothing_that_it_may_never_use() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, dragoman.server.worker; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "dragoman.jobs.service.queue" in loaded
    assert [name for name in NOT_NEEDED if name in loaded] == []
