from pathlib import Path

from typer.testing import CliRunner

from dragoman.cli.main import app
from dragoman.engines.llama.wire.start_failure import EngineStartFailure, start_failure_path, write_start_failure
from dragoman.server.runtime_folder import RuntimeFolder


def test_every_local_model_is_listed_with_its_size_and_path() -> None:
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    (bundled,) = [line for line in lines if "smollm2-135m-instruct" in line]
    assert "98.4 MB" in bundled
    assert "SmolLM2-135M-Instruct.Q4_1.gguf" in bundled
    (echo,) = [line for line in lines if " echo " in line]
    assert "built in" in echo


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
