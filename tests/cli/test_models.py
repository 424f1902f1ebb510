from pathlib import Path

from gguf import GGMLQuantizationType as Type
from typer.testing import CliRunner

from dragoman.cli.main import app
from dragoman.engines.llama.wire.start_failure import EngineStartFailure, start_failure_path, write_start_failure
from dragoman.server.runtime_folder import RuntimeFolder
from tests.support.chat_templates import ALTERNATING, ALWAYS_REASONING, HERMES, LLAMA3
from tests.support.gguf_files import random_tensor, write_gguf
from tests.support.hub import COMMIT, UNREACHABLE, run_python_with_hub


def cells(line: str) -> list[str]:
    """Return the cells of a row of the table."""
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_every_local_model_is_listed_with_its_size_and_path() -> None:
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    (bundled,) = [line for line in lines if "smollm2-135m-instruct" in line]
    assert "98.4 MB" in bundled
    assert "SmolLM2-135M-Instruct.Q4_1.gguf" in bundled
    assert cells(bundled)[3:5] == ["generic", "no"], "as it is served: without its file's own template"
    (echo,) = [line for line in lines if " echo " in line]
    assert cells(echo)[3:] == ["generic", "no", "built in"]


def test_a_model_that_no_server_has_is_neither_loaded_nor_unloaded() -> None:
    for action in ("load", "unload"):
        result = CliRunner().invoke(app, ["models", action, "no-such-model"])
        assert result.exit_code == 1, result.output
        assert "dragoman:" in result.output


def test_each_models_tool_format_is_listed_and_whether_it_reasons(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--acme--chat" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    templates = {"hermes": HERMES, "llama": LLAMA3, "thinker": ALWAYS_REASONING, "base": None}
    for name, template in templates.items():
        metadata = {} if template is None else {"tokenizer.chat_template": template}
        write_gguf(snapshot / f"{name}.gguf", {"t": (random_tensor(1, 32), Type.F32)}, metadata=metadata)
    named = {"tokenizer.chat_template": ALTERNATING, "tokenizer.chat_template.tool_use": HERMES}
    write_gguf(snapshot / "named.gguf", {"t": (random_tensor(1, 32), Type.F32)}, metadata=named)
    (snapshot / "broken.gguf").write_bytes(b"GGUF")
    # Another process, because the hub's client reads the place of its cache on import.
    output = run_python_with_hub(UNREACHABLE, tmp_path, "from dragoman.cli.main import app; app(['models'])").stdout
    rows = [cells(line) for line in output.splitlines() if "acme/chat:" in line]
    assert {row[0].removeprefix("acme/chat:").removesuffix(".gguf"): row[3:5] for row in rows} == {
        "hermes": ["hermes", "no"],
        "llama": ["llama3", "no"],
        "thinker": ["generic", "yes"],
        "base": ["generic", "no"],
        "named": ["hermes", "no"],
        "broken": ["", ""],
    }


def test_rewritten_copies_are_listed_with_their_sources(tmp_path: Path) -> None:
    copy = tmp_path / "dragoman" / "rewritten" / "0123-1.gguf"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(bytes(1000))
    result = CliRunner().invoke(app, ["models"], env={"XDG_CACHE_HOME": str(tmp_path)})
    [line] = [line for line in result.stdout.splitlines() if str(copy) in line]
    assert "faster copy of a file that is gone" in line
    assert "1.0 kB" in line


def test_models_that_a_running_server_cannot_load_are_listed_with_the_reason() -> None:
    failure = EngineStartFailure(model="broken", reason="x.gguf is damaged", attempts=3, next_attempt_at=0.0)
    with RuntimeFolder.create() as folder:
        write_start_failure(start_failure_path(folder.path / "engine-0.sock"), failure)
        output = CliRunner().invoke(app, ["models"]).stdout
    [line] = [line for line in output.splitlines() if " broken " in line]
    assert "a running server cannot load it (3 attempts): x.gguf is damaged" in line
