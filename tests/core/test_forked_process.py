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


LOGS = """
import asyncio, os, socket
from dragoman.core import logs
from dragoman.core.forked_process import ForkedProcess

def child():
    connection = socket.socket(fileno=0)
    logs.get_logger("child").warning("seen")
    logs.configure_child()
    connection.sendall(b"still open")

def fail():
    raise ValueError("seen")

async def main():
    logs.configure("info", "text")
    for run in (child, fail):
        process = ForkedProcess.fork(run, "a.name")
        print(process.connection.recv(1000).decode())
        process.connection.close()
        await process.wait()

asyncio.run(main())
"""


def test_a_forked_child_has_a_log_of_its_own_from_the_beginning() -> None:
    run = subprocess.run([sys.executable, "-c", LOGS], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.split("\n") == ["still open", "", ""]
    assert "event='seen'" in run.stderr
    assert "event='process_failed_unexpectedly'" in run.stderr
    assert "ValueError: seen" in run.stderr


IGNORES_SIGCHLD = """
import asyncio, os, signal, time
from dragoman.core.forked_process import ForkedProcess

async def main():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    ends_now = ForkedProcess.fork(lambda: None, "")
    killed = ForkedProcess.fork(lambda: time.sleep(60), "")
    while os.path.exists(f"/proc/{ends_now.pid}"):
        pass
    waiting = [asyncio.create_task(process.wait()) for process in (ends_now, killed, killed)]
    await asyncio.sleep(0)
    killed.kill()
    print(*await asyncio.gather(*waiting))

asyncio.run(main())
"""


def test_a_child_whose_status_the_system_does_not_keep_has_ended_too() -> None:
    # Who starts a server may leave it a SIGCHLD that is ignored: it survives execve(2).
    run = subprocess.run([sys.executable, "-c", IGNORES_SIGCHLD], capture_output=True, text=True, check=True)
    assert run.stdout == "255 255 255\n"


LACKS_PIDFD_OPEN = """
import asyncio, ctypes, os, struct
from dragoman.core.child_process import orphans_adopted
from dragoman.core.forked_process import can_fork

libc = ctypes.CDLL(None, use_errno=True)
PIDFD_OPEN, ENOSYS = 434, 38
LOAD, JUMP_IF_EQUAL, RETURN, ERRNO, ALLOW = 0x20, 0x15, 0x06, 0x50000, 0x7FFF0000
program = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (LOAD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, PIDFD_OPEN),
        (RETURN, 0, 0, ERRNO | ENOSYS),
        (RETURN, 0, 0, ALLOW),
    )
)
before = can_fork()
kept = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(kept)))
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
assert libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
assert libc.prctl(SECCOMP, FILTER, filter) == 0, os.strerror(ctypes.get_errno())
with orphans_adopted() as can_adopt:
    print(before, can_fork(), can_adopt)
"""


def test_a_system_without_descriptors_of_processes_forks_and_adopts_none() -> None:
    run = subprocess.run([sys.executable, "-c", LACKS_PIDFD_OPEN], capture_output=True, text=True, check=True)
    assert run.stdout == "True False False\n"
