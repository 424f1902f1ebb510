"""Counts the files and functions of dragoman that one streamed chat enters, in all processes of a server.

.venv/bin/python -m tools.request_path           # the counts; fails if there are more than MAX_FILES
.venv/bin/python -m tools.request_path --list    # the functions, too

It starts the server from this checkout with the bundled model and default settings, but an empty data folder and a
free port. Every process starts with a `sitecustomize` module that the tool puts in front of the module path. It sets
a profile function (sys.setprofile) in every thread, which records the functions of src that are called or resumed.
A byte of a shared file is the phase to record into:

1. One streamed chat, unrecorded, so that nothing is done for the first time in those that count.
2. IDLE_SECONDS without a request. What is entered here is background work and does not count.
3. CHATS streamed chats, each in a phase of its own with TAIL_SECONDS for what follows its last byte, such as the
   settlement. What each of them enters counts: background work that falls into one of them by chance does not.

A coroutine that waits for requests counts when the request resumes it. Class bodies, comprehensions, generator
expressions and lambdas do not count as functions. Values without code, such as structs, are never called and do not
count.
"""

import http.client
import json
import mmap
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

MAX_FILES = 50
"""What someone can read who follows one request."""

SOURCE = Path(__file__).parent.parent / "src"
IDLE_SECONDS = 5.0
TAIL_SECONDS = 1.0
WRITE_SECONDS = 3.0
CHATS = 3

UNRECORDED, IDLE, FIRST_CHAT = range(3)
WRITE = FIRST_CHAT + CHATS
"""Phases. In WRITE, every process writes what it has recorded."""

_RECORDER = f"""
import json, mmap, os, sys, threading, time

folder, source = os.environ["REQUEST_PATH_FOLDER"], os.environ["REQUEST_PATH_SOURCE"]
with open(os.path.join(folder, "phase"), "rb") as file:
    phase = mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)
entered = [set() for _ in range({WRITE + 1})]
NEWLOCALS = 2

def record(frame, event, argument):
    if event == "call":
        entered[phase[0]].add(frame.f_code)

def functions(codes):
    return sorted(
        [os.path.relpath(code.co_filename, source), code.co_qualname]
        for code in codes
        if code.co_filename.startswith(source) and code.co_flags & NEWLOCALS and code.co_name[0] != "<"
    )

def write():
    while phase[0] != {WRITE}:
        time.sleep(0.05)
    arguments = sys.orig_argv
    process = arguments[arguments.index("-m") + 1] if "-m" in arguments else arguments[0]
    chats = set.intersection(*entered[{FIRST_CHAT}:{WRITE}])
    result = {{"process": process, "functions": functions(chats - entered[{IDLE}])}}
    path = os.path.join(folder, str(os.getpid()))
    with open(path + ".part", "w") as file:
        json.dump(result, file)
    os.rename(path + ".part", path + ".json")

threading.Thread(target=write, daemon=True).start()
threading.setprofile(record)
sys.setprofile(record)
"""

Function = tuple[str, str]
"""File below src, qualified name."""


def measure() -> dict[str, set[Function]]:
    """Run the server and the chats; returns what each of the last ones entered, by the module that a process runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(_RECORDER, encoding="utf-8")
        (folder / "phase").write_bytes(bytes([UNRECORDED]))
        with (folder / "phase").open("r+b") as file, mmap.mmap(file.fileno(), 1) as phase, _server(folder) as url:
            model = _model(url)
            _chat(url, model)
            time.sleep(TAIL_SECONDS)
            phase[0] = IDLE
            time.sleep(IDLE_SECONDS)
            for number in range(CHATS):
                phase[0] = FIRST_CHAT + number
                _chat(url, model)
                time.sleep(TAIL_SECONDS)
            phase[0] = WRITE
            return _recorded(folder)


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Run a server that records, and return its address."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DRAGOMAN_")}
    environment |= {
        "PYTHONPATH": os.pathsep.join((str(folder), str(SOURCE))),
        "XDG_DATA_HOME": str(folder / "data"),
        "REQUEST_PATH_FOLDER": str(folder),
        "REQUEST_PATH_SOURCE": str(SOURCE),
    }
    command = [sys.executable, "-m", "dragoman", "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"at (http://\S+)", line):
                yield found[1]
                return
        raise RuntimeError(f"the server ended with status {process.wait()}")
    finally:
        process.terminate()
        process.wait()


def _model(url: str) -> str:
    """Return the name of the bundled model."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("GET", "/v1/models")
    name: str = json.load(connection.getresponse())["data"][0]["id"]
    connection.close()
    return name


def _chat(url: str, model: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    message = {"role": "user", "content": "What is the capital of France?"}
    body = {"model": model, "messages": [message], "temperature": 0, "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != http.client.OK:
        raise RuntimeError(response.read().decode())
    response.read()
    connection.close()


def _recorded(folder: Path) -> dict[str, set[Function]]:
    """Read what the processes have written; those that a chat does not enter are left out."""
    time.sleep(WRITE_SECONDS)
    entered: dict[str, set[Function]] = {}
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if functions := {(file, name) for file, name in record["functions"]}:
            entered.setdefault(record["process"], set()).update(functions)
    return entered


def main() -> int:
    """Print the counts, and with --list the functions. Return the process's exit status."""
    entered = measure()
    for process, functions in {**entered, "in all": set().union(*entered.values())}.items():
        files: dict[str, list[str]] = {}
        for file, name in sorted(functions):
            files.setdefault(file, []).append(name)
        lines = sum(len((SOURCE / file).read_text(encoding="utf-8").splitlines()) for file in files)
        print(f"{process}: {len(files)} files, {len(functions)} functions, {lines:,} lines in those files")
        if "--list" in sys.argv[1:] and process != "in all":
            for file, names in files.items():
                print(f"  {file}: {', '.join(names)}")
    count = len({file for functions in entered.values() for file, _name in functions})
    if count > MAX_FILES:
        print(f"more than {MAX_FILES} files: put what each request needs into a file that is on its way already")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
