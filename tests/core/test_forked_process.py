"""In a process of its own: the one that runs the tests has threads."""

import json
import subprocess
import sys

SCRIPT = """
import asyncio, json, os, signal, socket, sys, threading
from dragoman.core.forked_process import ForkedProcess, can_fork

def child():
    connection = socket.socket(fileno=0)
    files = sorted(map(int, os.listdir("/proc/self/fd")))[:-1]
    connection.sendall(json.dumps([files, os.readlink("/proc/self/fd/1")]).encode())
    connection.recv(1)

def fail():
    raise ValueError("seen")

async def main():
    said = {"can_fork": can_fork(), "processes": []}
    pipe = os.pipe()
    for run in (child, child, fail):
        process = ForkedProcess.fork(run, "a.name")
        files = process.connection.recv(1000)
        arguments = open(f"/proc/{process.pid}/cmdline").read()
        process.kill() if not said["processes"] else process.connection.close()
        status = await process.wait()
        try:
            process.kill()
        except ProcessLookupError:
            said["processes"].append([json.loads(files or "null"), arguments.rstrip(chr(0)), status])
    thread = threading.Thread(target=pipe_reader, args=(pipe[0],))
    thread.start()
    said["can_fork_with_threads"] = can_fork()
    os.write(pipe[1], b"x")
    thread.join()
    print(json.dumps(said))

def pipe_reader(descriptor):
    os.read(descriptor, 1)

asyncio.run(main())
"""


def test_a_forked_child_has_its_name_its_socket_and_nothing_else_of_its_parent() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    said = json.loads(run.stdout)
    assert said["can_fork"]
    assert not said["can_fork_with_threads"]
    killed, ended, failed = said["processes"]
    assert killed == [[[0, 1, 2], "/dev/null"], "a.name", -9]
    assert ended == [[[0, 1, 2], "/dev/null"], "a.name", 0]
    assert failed[2] == 1
    assert "ValueError: seen" in run.stderr
