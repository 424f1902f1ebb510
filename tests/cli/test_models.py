from typer.testing import CliRunner

from dragoman.cli.main import app


def test_every_model_at_hand_has_a_line_with_its_size_and_place() -> None:
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    (bundled,) = [line for line in lines if "smollm2-135m-instruct" in line]
    assert "98.4 MB" in bundled
    assert "SmolLM2-135M-Instruct.Q4_1.gguf" in bundled
    (echo,) = [line for line in lines if " echo " in line]
    assert "built in" in echo
